"""hosts.toml, read as containerd reads it: its own test file first, then every mistake that must not pass unseen."""

from pathlib import Path

import pytest

from csi_oras.registry.channel import TrustSettings
from csi_oras.registry.hosts_file import ALL, Capability, HostEntry, WrongHostsFileError, parse
from tests.support.planted import MARK

HERE = Path("/etc/containerd/certs.d/registry.example")
PULL, RESOLVE, PUSH = Capability.PULL, Capability.RESOLVE, Capability.PUSH

CONTAINERD = """
server = "https://test-default.registry"
ca = "/etc/path/default"
[header]
  x-custom-1 = "custom header"

[host."https://mirror.registry"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  [host."https://mirror.registry".header]
    x-custom-2 = ["value1", "value2"]

[host."https://mirror-bak.registry/us"]
  capabilities = ["pull"]
  skip_verify = true

[host."http://mirror.registry"]
  capabilities = ["pull"]

[host."https://test-1.registry"]
  capabilities = ["pull", "resolve", "push", "referrers"]
  ca = ["/etc/certs/test-1-ca.pem", "/etc/certs/special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"],["/etc/certs/client.pem", ""]]

[host."https://test-2.registry"]
  client = "/etc/certs/client.pem"

[host."https://test-3.registry"]
  client = ["/etc/certs/client-1.pem", "/etc/certs/client-2.pem"]

[host."https://no-referrers.registry"]
  capabilities = ["pull", "resolve", "push"]

[host."https://noncompliantmirror.registry/v2/namespaceprefix"]
  capabilities = ["pull"]
  override_path = true

[host."https://noprefixnoncompliant.registry"]
  override_path = true

[host."https://onlyheader.registry".header]
  x-custom-1 = "justaheader"

[host."https://dial-timeout.registry"]
  dial_timeout = "3s"
"""


def hosts_of(text: str, directory: Path = HERE) -> tuple[HostEntry, ...]:
    return parse(text, directory).hosts


def only(text: str) -> HostEntry:
    """The one host before the server."""
    first, _server = hosts_of(text)
    return first


def test_containerds_own_file_is_read_in_its_order() -> None:
    assert [host.url for host in hosts_of(CONTAINERD)] == [
        "https://mirror.registry/v2",
        "https://mirror-bak.registry/us/v2",
        "http://mirror.registry/v2",
        "https://test-1.registry/v2",
        "https://test-2.registry/v2",
        "https://test-3.registry/v2",
        "https://no-referrers.registry/v2",
        "https://noncompliantmirror.registry/v2/namespaceprefix",
        "https://noprefixnoncompliant.registry",
        "https://onlyheader.registry/v2",
        "https://dial-timeout.registry/v2",
        "https://test-default.registry/v2",
    ]
    assert parse(CONTAINERD, HERE).unknown == ()


def test_containerds_own_file_gives_each_host_its_settings() -> None:
    mirror, backup, plain, one, two, three, no_referrers, *_, header, dial, server = hosts_of(CONTAINERD)
    certs = Path("/etc/certs")
    assert mirror.capabilities == backup.capabilities == plain.capabilities == {PULL}
    assert mirror.trust == TrustSettings(authorities=(certs / "mirror.pem",), skip_verify=False)
    assert mirror.headers["x-custom-2"].reveal() == "value1, value2"
    assert backup.trust == TrustSettings(skip_verify=True)
    assert not plain.trust.are_given
    assert one.capabilities == two.capabilities == ALL
    assert one.trust.authorities == (certs / "test-1-ca.pem", certs / "special.pem")
    assert one.trust.clients == ((certs / "client.cert", certs / "client.key"), (certs / "client.pem", None))
    assert two.trust.clients == ((certs / "client.pem", None),)
    assert three.trust.clients == ((certs / "client-1.pem", None), (certs / "client-2.pem", None))
    assert no_referrers.capabilities == {PULL, RESOLVE, PUSH}
    assert header.headers["x-custom-1"].reveal() == "justaheader"
    assert dial.dial_seconds == 3
    assert server.trust.authorities == (Path("/etc/path/default"),)
    assert server.headers["x-custom-1"].reveal() == "custom header"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("mirror.example", "https://mirror.example/v2"),
        ("mirror.example:5000", "https://mirror.example:5000/v2"),
        ("https://mirror.example/", "https://mirror.example/v2"),
        ("https://mirror.example/v2", "https://mirror.example/v2"),
        ("https://mirror.example/v2/", "https://mirror.example/v2"),
        ("https://mirror.example/a//b/../c", "https://mirror.example/a/c/v2"),
        ("https://mirror.example/xv2", "https://mirror.example/xv2/v2"),
        ("https://Mirror.Example", "https://mirror.example/v2"),
        ("http://[::1]:5000", "http://[::1]:5000/v2"),
        ("http://127.0.0.1:30020", "http://127.0.0.1:30020/v2"),
    ],
)
def test_url_of_a_host_leads_to_its_api(host: str, url: str) -> None:
    assert only(f'[host."{host}"]\n').url == url
    assert hosts_of(f'server = "{host}"\n')[-1].url == url


def test_server_that_is_not_named_is_left_to_the_registry_with_its_settings() -> None:
    (server,) = hosts_of('ca = "own.crt"\n')
    assert server.url == ""
    assert server.trust.authorities == (HERE / "own.crt",)
    assert hosts_of('server = ""\n')[-1].url == ""


def test_relative_files_lie_beside_the_hosts_file() -> None:
    host = only('[host."m.example"]\nca = ["a.crt", "/b.crt"]\nclient = [["c.cert", "../c.key"]]\n')
    assert host.trust.authorities == (HERE / "a.crt", Path("/b.crt"))
    assert host.trust.clients == ((HERE / "c.cert", HERE / "../c.key"),)


def test_capabilities_are_spelled_in_any_case_and_an_empty_list_means_all() -> None:
    assert only('[host."m.example"]\ncapabilities = ["Pull", "RESOLVE"]\n').capabilities == {PULL, RESOLVE}
    assert only('[host."m.example"]\ncapabilities = []\n').capabilities == ALL


def test_keys_that_mean_nothing_are_named_and_passed_over() -> None:
    parsed = parse('servers = "a"\n[host."m.example"]\nskip-verify = true\n[plugins.x]\ny = 1\n', HERE)
    assert parsed.unknown == ("servers", "plugins", 'host."m.example".skip-verify')
    assert parsed.hosts[0].trust.skip_verify is None


def test_values_of_headers_are_secrets() -> None:
    host = only('[host."m.example".header]\nAuthorization = "Bearer planted"\n'.replace("planted", MARK))
    assert "planted" not in repr(host)
    assert host.headers["authorization"].reveal() == f"Bearer {MARK}"


MISTAKES = [
    ("server = ", "is not TOML"),
    ("a = 1\na = 2\n", "is not TOML"),
    ("a = " + "[" * 100_000, "is not TOML"),
    ("server = 5\n", '"server" is no text'),
    ('server = "ftp://a.example"\n', "server: names a URL that is not plain http or https"),
    ('server = "https://user:planted@a.example"\n', "not plain http or https"),
    ('[host."https://user:planted@a.example"]\n', 'host "a.example": names a URL that is not plain http or https'),
    ('server = "https://a.example/ü"\n', "characters that have no place"),
    ('host = "a"\n', '"host" is no table'),
    ('[host]\n"https://a.example" = "b"\n', "is no table"),
    ('[host.""]\n', 'host ""'),
    ('[host."https://"]\n', 'host "https://"'),
    ('[host."https://a b"]\n', "not plain http or https"),
    ('[host."a.example:99999"]\n', "a bad port"),
    ('capabilities = "pull"\n', '"capabilities" is no list'),
    ('capabilities = ["pul"]\n', "unknown capability"),
    ("capabilities = [1]\n", '"capabilities" is no text'),
    ("ca = 1\n", '"ca" is no text'),
    ("ca = [1]\n", '"ca" is no text'),
    ("client = 1\n", '"client" is no file'),
    ('client = [["a"]]\n', '"client" is no file'),
    ('client = [["a", "b", "c"]]\n', '"client" is no file'),
    ('client = [["a", 1]]\n', '"client" is no text'),
    ('skip_verify = "true"\n', '"skip_verify" is no true or false'),
    ("skip_verify = 1\n", '"skip_verify" is no true or false'),
    ('override_path = "true"\n', '"override_path" is no true or false'),
    ('dial_timeout = "soon"\n', '"dial_timeout" is no duration'),
    ('dial_timeout = "-1s"\n', '"dial_timeout" is no duration'),
    ("dial_timeout = 5\n", '"dial_timeout" is no text'),
    ("header = 1\n", '"header" is no table'),
    ("[header]\nx = 1\n", '"header" is no text'),
    ('[header]\nx = "a\\r\\nHost: evil"\n', "characters that have no place"),
    ('[header]\n"x y" = "a"\n', "characters that have no place"),
    ('[header]\nHost = "evil.example"\n', "cannot be set"),
    ('[header]\nContent-Length = "1"\n', "cannot be set"),
    ('[header]\nTransfer-Encoding = "chunked"\n', "cannot be set"),
]


@pytest.mark.parametrize(("text", "cause"), MISTAKES, ids=[text[:40] for text, _ in MISTAKES])
def test_mistake_is_refused_with_its_place_and_without_secrets(text: str, cause: str) -> None:
    with pytest.raises(WrongHostsFileError) as caught:
        parse(text, HERE)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "planted" not in str(caught.value)
