"""Where the hosts of a registry stand: the directories of containerd and of docker, read again when they change."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.errors import RegistryUnavailableError
from csi_oras.registry import named_files
from csi_oras.registry.hosts_dirs import HostsDirectories
from csi_oras.registry.hosts_file import ALL, Capability
from tests.support.certificates import Authority, locked
from tests.support.hosts import CertsD


@pytest.fixture
def certs(tmp_path: Path) -> CertsD:
    return CertsD(tmp_path / "certs.d")


def urls(certs: CertsD, registry: str) -> list[str]:
    return [host.url for host in certs.directories.hosts_of(registry)]


def mirror(name: str) -> str:
    return f'[host."https://{name}.example"]\n'


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        ("r.example:5000", ["r.example_5000_", "r.example:5000", "_default"]),
        ("r.example", ["r.example", "_default"]),
        ("docker.io", ["docker.io", "_default"]),
        ("[::1]:5000", ["[::1]_5000_", "[::1]:5000", "_default"]),
    ],
)
def test_first_directory_that_exists_counts(certs: CertsD, registry: str, names: list[str]) -> None:
    for number, name in reversed(list(enumerate(names))):
        certs.write(name, mirror(f"m{number}"))
        assert urls(certs, registry)[0] == f"https://m{number}.example/v2"


def test_directory_without_the_port_is_another_registrys(certs: CertsD) -> None:
    certs.write("r.example", mirror("m"))
    assert urls(certs, "r.example:5000") == ["https://r.example:5000/v2"]


def test_several_roots_are_looked_through_in_turn(tmp_path: Path) -> None:
    first, second = CertsD(tmp_path / "a"), CertsD(tmp_path / "b")
    second.write("r.example", mirror("b"))
    roots = [str(tmp_path / "missing"), str(first.root), str(second.root)]
    directories = HostsDirectories(lambda: roots)
    assert directories.hosts_of("r.example")[0].url == "https://b.example/v2"
    first.write("_default", mirror("a"))  # as containerd: all of one root before the next
    assert directories.hosts_of("r.example")[0].url == "https://a.example/v2"
    roots.pop(1)
    assert directories.hosts_of("r.example")[0].url == "https://b.example/v2"


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("r.example", "https://r.example/v2"),
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
    ],
)
def test_registry_without_a_directory_is_its_own_only_host(certs: CertsD, registry: str, url: str) -> None:
    (host,) = certs.directories.hosts_of(registry)
    assert (host.url, host.capabilities, host.channel, host.is_own) == (url, ALL, None, True)


def test_server_that_is_not_named_is_the_registry_with_every_capability(certs: CertsD) -> None:
    certs.write("docker.io", 'capabilities = ["push"]\n' + mirror("m"))
    first, server = certs.directories.hosts_of("docker.io")
    assert (server.url, server.capabilities, server.is_own) == ("https://registry-1.docker.io/v2", ALL, True)
    assert (first.is_own, first.at("/x/manifests/v1")) == (
        False,
        "https://m.example/v2/x/manifests/v1?ns=docker.io",
    )


def test_server_that_is_a_mirror_leaves_the_registry_out(certs: CertsD) -> None:
    certs.write("_default", 'server = "https://only.example"\ncapabilities = ["pull"]\n')
    (server,) = certs.directories.hosts_of("r.example:5000")
    assert server.capabilities == {Capability.PULL}
    assert server.at("/x?a=b") == "https://only.example/v2/x?a=b&ns=r.example%3A5000"


def test_registry_itself_is_known_by_its_name_and_not_by_the_scheme(certs: CertsD) -> None:
    certs.write("r.example:5000", '[host."http://r.example:5000"]\n[host."https://r.example:5001"]\n')
    assert [host.is_own for host in certs.directories.hosts_of("r.example:5000")] == [True, False, True]


def test_docker_certificate_files_count_where_there_is_no_hosts_file(certs: CertsD, tmp_path: Path) -> None:
    directory = certs.directory("r.example")
    authority = Authority(tmp_path / "pki")
    (directory / "ca.crt").write_bytes(authority.ca.read_bytes())
    certificate, key = authority.pair("client")
    (directory / "client.cert").write_bytes(certificate.read_bytes())
    (directory / "client.key").write_bytes(key.read_bytes())
    (directory / "sub.crt").mkdir()
    (host,) = certs.directories.hosts_of("r.example")
    assert host.channel is not None
    assert host.channel.context is not None
    assert any("tests" in str(ca["subject"]) for ca in host.channel.context.get_ca_certs())
    certs.write("r.example", "\n")  # a file that says nothing is a file
    (host,) = certs.directories.hosts_of("r.example")
    assert host.channel is None
    certs.write("r.example", "")  # as containerd
    (host,) = certs.directories.hosts_of("r.example")
    assert host.channel is not None


def test_unchanged_file_is_read_once(certs: CertsD, monkeypatch: pytest.MonkeyPatch) -> None:
    certs.write("r.example", mirror("m") + "skip_verify = true\n")
    directories = certs.directories
    first = directories.hosts_of("r.example")
    monkeypatch.setattr(named_files, "opened", lambda *_: pytest.fail("was read again"))
    assert directories.hosts_of("r.example") is first  # and with it, its connections can be used again


def test_change_counts_with_the_next_look(certs: CertsD, tmp_path: Path) -> None:
    directories = certs.directories
    assert directories.hosts_of("r.example:5000")[0].is_own
    certs.write("_default", mirror("a"))
    assert directories.hosts_of("r.example:5000")[0].url == "https://a.example/v2"
    file = certs.write("r.example:5000", mirror("b"))
    assert directories.hosts_of("r.example:5000")[0].url == "https://b.example/v2"
    other = tmp_path / "new.toml"
    other.write_text(mirror("c"))
    other.replace(file)
    assert directories.hosts_of("r.example:5000")[0].url == "https://c.example/v2"
    file.unlink()
    file.parent.rmdir()
    assert directories.hosts_of("r.example:5000")[0].url == "https://a.example/v2"


def test_certificate_that_changes_counts_with_the_next_look(certs: CertsD, tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "1"), Authority(tmp_path / "2", "another")
    ca = certs.directory("r.example") / "ca.pem"
    ca.write_bytes(first.ca.read_bytes())
    certs.write("r.example", 'ca = "ca.pem"\n')
    directories = certs.directories
    (before,) = directories.hosts_of("r.example")
    ca.write_bytes(second.ca.read_bytes())
    (after,) = directories.hosts_of("r.example")
    assert after.channel is not before.channel


def test_mistake_fails_the_registry_with_the_file_until_it_is_corrected(certs: CertsD) -> None:
    file = certs.write("r.example", 'server = "https://r.example"\ncapabilities = ["pul"]\n')
    directories = certs.directories
    for _ in range(2):
        with pytest.raises(RegistryUnavailableError, match="unknown capability") as caught:
            directories.hosts_of("r.example")
        assert str(file) in caught.value.message
    assert directories.hosts_of("other.example")[0].is_own
    certs.write("r.example", 'server = "https://r.example"\n')
    assert len(directories.hosts_of("r.example")) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = 1\n" * 200_000], ids=["no text", "huge"])
def test_file_that_is_none_fails_the_registry(certs: CertsD, content: bytes) -> None:
    (certs.directory("r.example") / "hosts.toml").write_bytes(content)
    with pytest.raises(RegistryUnavailableError, match=r"hosts\.toml"):
        certs.directories.hosts_of("r.example")


def test_hosts_file_or_directory_that_is_another_thing_fails_the_registry(certs: CertsD) -> None:
    (certs.directory("r.example") / "hosts.toml").mkdir()
    (certs.root / "s.example").write_text("")
    for registry in ("r.example", "s.example"):
        with pytest.raises(RegistryUnavailableError, match="cannot be read"):
            certs.directories.hosts_of(registry)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('ca = "missing.crt"\n', r"missing\.crt: is not usable as CA certificate \(No such file"),
        ('ca = "hosts.toml"\n', r"hosts\.toml: is not usable as CA certificate"),
        ('client = "missing.pem"\n', r"missing\.pem: is not usable as client certificate"),
        ('client = [["hosts.toml", "missing.key"]]\n', r"missing\.key: is not usable as client certificate"),
    ],
)
def test_certificate_that_cannot_be_used_fails_the_registry(certs: CertsD, text: str, cause: str) -> None:
    certs.write("r.example", text)
    with pytest.raises(RegistryUnavailableError, match=cause):
        certs.directories.hosts_of("r.example")


@pytest.mark.parametrize("name", ["hosts.toml", "ca.crt", "client.cert", "client.key"])
def test_fifo_in_the_place_of_a_file_fails_the_registry_at_once(certs: CertsD, tmp_path: Path, name: str) -> None:
    directory = certs.directory("r.example")
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.pair("client")
    for file, source in (("ca.crt", authority.ca), ("client.cert", certificate), ("client.key", key)):
        (directory / file).symlink_to(source)  # as the kubelet mounts config maps
    assert certs.directories.hosts_of("r.example")[0].channel is not None
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with pytest.raises(RegistryUnavailableError, match=f"{name}: .*not a regular file"):
        certs.directories.hosts_of("r.example")


def test_client_certificate_without_its_key_or_with_a_locked_one_fails_the_registry(
    certs: CertsD, tmp_path: Path
) -> None:
    directory = certs.directory("r.example")
    certificate, key = Authority(tmp_path / "pki").pair("client")
    (directory / "client.cert").write_bytes(certificate.read_bytes())
    with pytest.raises(RegistryUnavailableError, match=r"client\.cert: is not usable as client certificate"):
        certs.directories.hosts_of("r.example")
    (directory / "client.key").write_bytes(locked(key))
    with pytest.raises(RegistryUnavailableError, match=r"client\.key: is not usable as client certificate"):
        certs.directories.hosts_of("r.example")  # and nobody is asked at a terminal


def test_keys_that_mean_nothing_are_logged_once(certs: CertsD) -> None:
    certs.write("r.example", "skip-verify = true\n")
    directories = certs.directories
    with capture_logs() as logs:
        for _ in range(3):
            directories.hosts_of("r.example")
    assert [line["key"] for line in logs] == ["skip-verify"]
