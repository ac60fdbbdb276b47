"""How a host is reached: `ca`, `client`, `skip_verify`, docker's certificate files, plain HTTP, `dial_timeout`."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from csi_oras.errors import RegistryUnavailableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from tests.support.artifacts import files
from tests.support.certificates import Authority, server_context
from tests.support.fake_registry import FakeRegistry, TLSRegistry
from tests.support.fake_server import redirect, status
from tests.support.fakes import user
from tests.support.hosts import CertsD

pytest_plugins = ["tests.support.fake_fixtures"]

LIMIT = 1 << 20
BLOB = Descriptor.of(b"alpha", "application/octet-stream")


@pytest.fixture
def certs(tmp_path: Path) -> CertsD:
    return CertsD(tmp_path / "certs.d")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def secure(authority: Authority) -> Iterator[TLSRegistry]:
    """A registry with a certificate of our authority."""
    with TLSRegistry(server_context(authority.pair("server"))) as running:
        running.artifact("t/x", files(a=b"alpha"))
        yield running


@pytest.fixture
def mutual(authority: Authority) -> Iterator[TLSRegistry]:
    """A registry that lets in only who shows a certificate of our authority."""
    with TLSRegistry(server_context(authority.pair("mutual"), authority.ca)) as running:
        running.artifact("t/x", files(a=b"alpha"))
        yield running


@pytest.fixture
def registries(certs: CertsD, transport: Transport) -> Registries:
    return Registries(transport, certs.directories)


def opened(
    registries: Registries, registry: str = "registry.example", credential: Credential | None = None
) -> RepositoryClient:
    return registries.repository(Repository(registry=registry, name="t/x"), credential)


def manifest(registries: Registries, registry: str = "registry.example") -> bytes:
    return opened(registries, registry).manifest("v1", limit=LIMIT).content


def read(client: RepositoryClient) -> bytes:
    buffer = memoryview(bytearray(100))
    with client.blob(BLOB) as stream:
        return bytes(buffer[: stream.readinto(buffer)])


def server(registry: FakeRegistry, *settings: str) -> str:
    return "\n".join((f'server = "{registry.url("")}"', *settings, ""))


@pytest.mark.row("D18")
def test_registry_of_an_unknown_authority_is_refused(
    certs: CertsD, registries: Registries, secure: TLSRegistry
) -> None:
    certs.write("registry.example", server(secure))
    with pytest.raises(RegistryUnavailableError, match="its certificate is not trusted"):
        manifest(registries)
    assert secure.count() == 0


def test_ca_is_trusted_for_its_host_alone(
    certs: CertsD, registries: Registries, secure: TLSRegistry, authority: Authority
) -> None:
    certs.write("registry.example", server(secure, f'ca = "{authority.ca}"'))
    certs.write("other.example", server(secure))
    assert manifest(registries)
    with pytest.raises(RegistryUnavailableError, match="not trusted"):  # nor over the connection of the first
        manifest(registries, "other.example")
    assert secure.count() == 1


@pytest.mark.row("D18")
def test_ca_of_another_authority_or_a_wrong_name_is_no_use(
    certs: CertsD, registries: Registries, authority: Authority, secure: TLSRegistry, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other")
    certs.write("registry.example", server(secure, f'ca = "{other.ca}"'))
    with pytest.raises(RegistryUnavailableError, match="not trusted"):
        manifest(registries)
    with TLSRegistry(server_context(authority.pair("elsewhere", "127.0.0.2"))) as elsewhere:
        certs.write("registry.example", server(elsewhere, f'ca = "{authority.ca}"'))
        with pytest.raises(RegistryUnavailableError, match="not trusted"):
            manifest(registries)


def test_skip_verify_trusts_its_host_alone(certs: CertsD, registries: Registries, secure: TLSRegistry) -> None:
    certs.write("registry.example", f'[host."{secure.url("")}"]\nskip_verify = true\n')
    assert manifest(registries)
    certs.write("registry.example", server(secure, "skip_verify = false"))
    with pytest.raises(RegistryUnavailableError, match="not trusted"):
        manifest(registries)


def test_client_certificate_is_shown_where_it_is_wanted(
    certs: CertsD, registries: Registries, mutual: TLSRegistry, authority: Authority
) -> None:
    certificate, key = authority.pair("client")
    certs.write("registry.example", server(mutual, f'ca = "{authority.ca}"'))
    with pytest.raises(RegistryUnavailableError):
        manifest(registries)
    assert mutual.count() == 0
    certs.write("registry.example", server(mutual, f'ca = "{authority.ca}"', f'client = [["{certificate}", "{key}"]]'))
    assert manifest(registries)
    both = certificate.with_name("both.pem")
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    certs.write("registry.example", server(mutual, f'ca = "{authority.ca}"', f'client = "{both}"'))
    assert manifest(registries)


def test_docker_certificate_files_reach_a_registry_with_both(
    certs: CertsD, registries: Registries, mutual: TLSRegistry, authority: Authority
) -> None:
    registry = mutual.address  # a loopback address: it would be plain HTTP without them
    directory = certs.directory(registry.replace(":", "_") + "_")
    authority.ca.rename(directory / "ca.crt")
    for file in authority.pair("client"):
        file.rename(directory / file.name)
    assert manifest(registries, registry)


def test_redirect_elsewhere_is_followed_with_the_trust_but_without_the_client_certificate(
    certs: CertsD, registries: Registries, secure: TLSRegistry, mutual: TLSRegistry, authority: Authority
) -> None:
    certificate, key = authority.pair("client")
    certs.write("registry.example", server(mutual, f'ca = "{authority.ca}"', f'client = [["{certificate}", "{key}"]]'))
    with TLSRegistry(server_context(authority.pair("third"), authority.ca)) as third:
        mutual.bend("/blobs/", redirect(third.url("/away")), times=1)
        with pytest.raises(RegistryUnavailableError):
            read(opened(registries))
        assert third.count() == 0
    secure.bend("/away", status(200, b"alpha"))
    mutual.bend("/blobs/", redirect(secure.url("/away")))
    assert read(opened(registries)) == b"alpha"


def test_token_endpoint_at_the_registry_is_trusted_as_it_is(
    certs: CertsD, registries: Registries, mutual: TLSRegistry, authority: Authority
) -> None:
    certificate, key = authority.pair("client")
    settings = f'ca = "{authority.ca}"\nclient = [["{certificate}", "{key}"]]\n'
    mutual.require_tokens(me="right-password")
    certs.write(mutual.address, server(mutual, settings))
    client = opened(registries, mutual.address, user("me", "right-password"))
    assert client.manifest("v1", limit=LIMIT)


def test_changed_authority_counts_and_old_connections_are_not_used_again(
    certs: CertsD, registries: Registries, secure: TLSRegistry, authority: Authority, tmp_path: Path
) -> None:
    certs.write("registry.example", server(secure, f'ca = "{authority.ca}"'))
    assert manifest(registries)
    certs.write("registry.example", server(secure, f'ca = "{Authority(tmp_path / "o", "other").ca}"'))
    with pytest.raises(RegistryUnavailableError, match="not trusted"):
        manifest(registries)
    certs.write("registry.example", server(secure, f'ca = "{authority.ca}"'))
    assert manifest(registries)


# -- plain HTTP


def test_plain_http_is_spoken_where_the_file_says_so(certs: CertsD, registries: Registries, fake: FakeRegistry) -> None:
    fake.artifact("t/x", files(a=b"alpha"))
    certs.write("registry.example", server(fake))
    assert manifest(registries)


def test_plain_http_with_certificates_is_tried_with_tls_first(
    certs: CertsD, registries: Registries, secure: TLSRegistry, fake: FakeRegistry, authority: Authority
) -> None:
    fake.artifact("t/x", files(a=b"alpha"))
    for registry in (secure, fake):
        certs.write("registry.example", f'server = "http://{registry.address}"\nca = "{authority.ca}"\n')
        assert manifest(registries)
        assert registry.count() == 1


@pytest.mark.row("D18")
def test_plain_http_with_certificates_is_no_way_around_them(
    certs: CertsD, registries: Registries, secure: TLSRegistry, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "other")
    certs.write("registry.example", f'server = "http://{secure.address}"\nca = "{other.ca}"\n')
    with pytest.raises(RegistryUnavailableError, match="not trusted"):
        manifest(registries)


@pytest.mark.row("D18")
def test_https_never_becomes_plain_http(certs: CertsD, registries: Registries, fake: FakeRegistry) -> None:
    fake.artifact("t/x", files(a=b"alpha"))
    certs.write("registry.example", f'server = "https://{fake.address}"\nskip_verify = true\n')
    with pytest.raises(RegistryUnavailableError, match="does not speak TLS"):
        manifest(registries)
    assert fake.count() == 0


# -- time


def test_mirror_that_does_not_take_connections_costs_its_dial_timeout(certs: CertsD, fake: FakeRegistry) -> None:
    fake.artifact("t/x", files(a=b"alpha"))
    transport = Transport(stall_seconds=20)
    registries = Registries(transport, certs.directories)
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(3):  # the queue is full now: what comes gets no answer
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)  # noqa: FBT003 (a name it does not have)
            client.connect_ex(address)
        mirror = f'[host."http://127.0.0.1:{address[1]}"]\ndial_timeout = "300ms"\n'
        certs.write(fake.address, mirror)
        started = time.monotonic()
        assert manifest(registries, fake.address)
        assert 0.3 <= time.monotonic() - started < 10
    transport.close()
