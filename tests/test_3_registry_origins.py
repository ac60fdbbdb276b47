"""Where a registry may send us, and that no credential goes along (realms, redirects, upload locations)."""

import pytest

from csi_oras.errors import BadResponseError, CsiOrasError, RegistryUnavailableError, UnauthenticatedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry import hosts
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.origin import Origin
from csi_oras.registry.sources import in_memory
from tests.support.artifacts import files
from tests.support.fake_registry import FakeRegistry, basic, bearer
from tests.support.fake_server import FakeServer, body, redirect, status
from tests.support.fakes import Connect, user

pytest_plugins = ["tests.support.fake_fixtures"]

LIMIT = 1 << 20
ME = user("me", "right-password")
BLOB = Descriptor.of(b"alpha", "application/octet-stream")


@pytest.fixture(autouse=True)
def artifact(fake: FakeRegistry) -> None:
    fake.artifact("t/x", files(a=b"alpha"))


def read(client: RepositoryClient) -> bytes:
    buffer = memoryview(bytearray(100))
    with client.blob(BLOB) as stream:
        return bytes(buffer[: stream.readinto(buffer)])


INNER = [
    "http://169.254.169.254/latest/meta-data",
    "http://169.254.169.254./latest",
    "http://[fe80::1]/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://[::ffff:a9fe:a9fe]/x",
    "http://0.0.0.0/x",
    "http://[::]/x",
    "http://224.0.0.1/x",
    "http://10.0.0.1/x",
    "http://192.168.1.1:8080/x",
    "http://[fd00::1]/x",
    "http://2130706433/x",
    "http://0x7f000001/x",
    "http://0x7f.1/x",
    "http://127.1/x",
    "http://0177.0.0.1/x",
    "http://169.254.43518/x",
]
NO_URL = [
    "file:///etc/hostname",
    "gopher://127.0.0.1/x",
    "ftp://127.0.0.1/x",
    "http://[::1/x",
    "http://me:password@127.0.0.1/x",
    "http://127.0.0.1:99999/x",
    "http://127.0.0.1:x/",
    "http://127.0.0.\uff11/x",
    "http://\uff4cocalhost/x",
    "http://127.0.0.1%00.example/x",
    "http://[fe80::1%25eth0]/x",
    "http://a b/x",
]


@pytest.mark.parametrize("location", INNER + NO_URL, ids=ascii)
def test_redirect_to_an_inner_address_or_no_url_is_refused(fake: FakeRegistry, connect: Connect, location: str) -> None:
    encoded = location.encode().decode("latin-1")  # as it looks in a header
    fake.bend("/blobs/", redirect(encoded))
    with pytest.raises(BadResponseError) as caught:
        read(connect())
    assert "plain http" not in caught.value.message or fake.address in caught.value.message
    assert fake.count("/blobs/") == 1


@pytest.mark.parametrize("realm", [*INNER, *NO_URL, "http://", "http:///x", "/token"], ids=ascii)
@pytest.mark.row("D1")
def test_realm_at_an_inner_address_or_no_url_is_refused(fake: FakeRegistry, connect: Connect, realm: str) -> None:
    challenge = f'Bearer realm="{realm}"'.encode().decode("latin-1")
    fake.bend("/manifests/", status(401, WWW_Authenticate=challenge))
    with pytest.raises(BadResponseError, match=fake.address):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.row("D2")
def test_redirect_to_another_port_is_followed_without_the_credential(
    fake: FakeRegistry, evil: FakeServer, connect: Connect, code: int
) -> None:
    fake.require_basic("me", "right-password")
    evil.bend("/elsewhere", body(b"alpha"))
    fake.bend("/blobs/", status(401, WWW_Authenticate="Basic realm=a"), times=1)
    fake.bend("/blobs/", redirect(evil.url("/elsewhere?signature=a%2Fb"), code))
    assert read(connect(credential=ME)) == b"alpha"
    assert fake.credentials_seen() == [basic("me", "right-password")]
    assert evil.seen()[0].query == {"signature": "a/b"}


def test_token_is_not_sent_to_another_origin_but_again_to_its_own(
    fake: FakeRegistry, evil: FakeServer, connect: Connect
) -> None:
    fake.require_tokens(me="right-password")
    client = connect(credential=ME)
    client.manifest("v1", limit=LIMIT)
    evil.bend("/away", body(b"alpha"))
    fake.bend("/blobs/", redirect(evil.url("/away")), times=1)
    fake.bend("/blobs/", redirect("/moved"), times=1)
    fake.bend("/moved", status(200, b"alpha"))
    assert read(client) == b"alpha"
    assert read(client) == b"alpha"
    assert fake.seen("/moved")[0].authorization == bearer(1)


@pytest.mark.row("D2")
def test_redirected_host_that_asks_for_a_credential_gets_none(
    fake: FakeRegistry, evil: FakeServer, connect: Connect
) -> None:
    fake.bend("/blobs/", redirect(evil.url("/away")))
    evil.bend("/away", status(401, WWW_Authenticate=f'Basic realm=a, Bearer realm="{evil.url("/token")}"'))
    with pytest.raises(UnauthenticatedError):
        read(connect(credential=ME))
    assert evil.count("/token") == 0


def test_redirect_through_another_origin_and_back_asks_with_the_credential_of_the_registry_only(
    fake: FakeRegistry, evil: FakeServer, connect: Connect
) -> None:
    fake.require_basic("me", "right-password")
    fake.bend("/blobs/", status(401, WWW_Authenticate="Basic realm=a"), times=1)
    fake.bend("/blobs/", redirect(evil.url("/away")), times=1)
    evil.bend("/away", redirect(fake.url(f"/v2/t/x/blobs/{BLOB.digest}")))
    assert read(connect(credential=ME)) == b"alpha"


def test_redirects_in_a_circle_end(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/blobs/", redirect(f"/v2/t/x/blobs/{BLOB.digest}"))
    with pytest.raises(BadResponseError, match="status 307"):
        read(connect())
    assert fake.count("/blobs/") == 6


@pytest.mark.row("D13")
def test_redirect_to_nowhere_is_refused(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/blobs/", status(307))
    with pytest.raises(BadResponseError, match="redirects to nowhere"):
        read(connect())


@pytest.mark.row("D6")
def test_redirect_with_an_endless_body_is_followed_without_reading_it(
    fake: FakeRegistry, evil: FakeServer, connect: Connect
) -> None:
    bomb = status(307, b"\x1f\x8b" + bytes(8 << 20), Location=evil.url("/away"), Content_Encoding="gzip")
    fake.bend("/blobs/", bomb)
    evil.bend("/away", body(b"alpha"))
    assert read(connect()) == b"alpha"


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", ".example"])
def test_redirect_to_a_host_that_is_no_dns_name_is_unavailable_and_no_crash(
    fake: FakeRegistry, connect: Connect, host: str
) -> None:
    fake.bend("/blobs/", redirect(f"http://{host}/x"))
    with pytest.raises(RegistryUnavailableError):
        read(connect())


@pytest.mark.parametrize(
    "target",
    ["/x y", "/x\ty", "/\u00fc", "http://127.0.0.1:{port}/x y", "/x\x7f"],
    ids=ascii,
)
def test_redirect_with_characters_that_have_no_place_in_a_url_sends_nothing(
    fake: FakeRegistry, connect: Connect, target: str
) -> None:
    port = fake.address.rpartition(":")[2]
    fake.bend("/blobs/", redirect(target.format(port=port)))
    with pytest.raises(CsiOrasError):  # or our own repository's "not found", where the character is only taken out
        read(connect())
    assert [request.path for request in fake.seen() if "/blobs/" not in request.path] in ([], ["/xy"])


@pytest.mark.row("D4")
def test_upload_location_at_another_origin_is_refused_before_a_byte_is_sent(
    fake: FakeRegistry, evil: FakeServer, connect: Connect
) -> None:
    fake.require_basic("me", "right-password")
    fake.bend("/blobs/uploads/", status(401, WWW_Authenticate="Basic realm=a"), times=1)
    fake.bend("/blobs/uploads/", status(202, Location=evil.url("/upload")))
    with pytest.raises(BadResponseError, match="upload sent to another host"):
        connect(credential=ME).pushes().upload(BLOB, in_memory(b"alpha"))
    assert evil.count() == 0


@pytest.mark.parametrize("location", ["//127.0.0.2/x", "https://{address}/x", "file:///x", "http://u:p@{address}/x"])
@pytest.mark.row("D4")
def test_upload_location_with_another_scheme_host_or_user_is_refused(
    fake: FakeRegistry, connect: Connect, location: str
) -> None:
    fake.bend("/blobs/uploads/", status(202, Location=location.format(address=fake.address)), method="POST")
    with pytest.raises(BadResponseError, match=f"{fake.address}/t/x@sha256:.*(X-Forwarded-Proto|its own URL)"):
        connect().pushes().upload(BLOB, in_memory(b"alpha"))
    assert fake.count(method="PUT") == 0


@pytest.mark.row("D4")
def test_upload_keeps_the_query_of_the_location_as_it_is(fake: FakeRegistry, connect: Connect) -> None:
    location = "/v2/t/x/blobs/uploads/1?state=a%2Bb%3D&x"
    fake.bend("/blobs/uploads/", status(202, Location=location), method="POST")
    connect().pushes().upload(BLOB, in_memory(b"alpha"))
    assert fake.seen(method="PUT")[0].query == {"state": "a+b=", "digest": str(BLOB.digest)}


GHCR, HUB = "https://ghcr.io", "https://registry-1.docker.io"


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        (GHCR, "https://ghcr.io/token"),
        (HUB, "https://auth.docker.io/token"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://acme.azurecr.io", "https://acme.azurecr.io/oauth2/token"),
        ("https://quay.io", "https://quay.io:8443/auth"),
        ("https://10.0.0.1:5000", "https://10.0.0.1:5001/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://localhost:5000", "http://127.0.0.1:5001/token"),
    ],
)
def test_realm_of_the_registry_itself_or_its_domain_is_allowed(registry: str, realm: str) -> None:
    hosts.check_realm(Origin.of(realm), Origin.of(registry))


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        (GHCR, "https://evil.example/token"),
        (GHCR, "https://ghcr.io.evil.example/token"),
        (GHCR, "https://xghcr.io/token"),
        (GHCR, "https://evil.io/token"),  # a top-level domain relates nobody
        (GHCR, "http://ghcr.io/token"),
        (HUB, "https://authdocker.io/token"),
        (HUB, "https://docker.io.evil.example/token"),
        ("https://10.1.2.3", "https://11.1.2.3/token"),  # nor do the last numbers of an address
        ("https://10.1.2.3", "https://evil.1.2.3/token"),
        ("https://10.1.2.3", "https://10.1.2.4/token"),
        ("https://127.1.2.3:5000", "https://evil.1.2.3/token"),
        ("https://[2001:db8::1]", "https://[2001:db8::2]/token"),
        ("http://127.0.0.1:5000", "http://evil.example/token"),
        ("http://localhost:5000", "http://evil.localhost.example/token"),
    ],
)
@pytest.mark.row("D1")
def test_realm_at_another_domain_is_refused(registry: str, realm: str) -> None:
    with pytest.raises(BadResponseError):
        hosts.check_realm(Origin.of(realm), Origin.of(registry))


@pytest.mark.parametrize(
    "place", ["http://cdn.example/x", "https://127.0.0.1/x", "https://localhost/x", "https://a.localhost./x"]
)
@pytest.mark.row("D2")
def test_redirect_from_a_registry_with_tls_never_loses_it_nor_turns_inward(place: str) -> None:
    with pytest.raises(BadResponseError):
        hosts.check_destination(Origin.of(place), Origin.of(GHCR), "blob")


@pytest.mark.parametrize("host", ["[::ffff:169.254.169.254]", "[::ffff:127.0.0.1]", "169.254.169.254", "127.0.0.1"])
def test_redirect_from_a_private_address_goes_no_further_inward(host: str) -> None:
    with pytest.raises(BadResponseError):
        hosts.check_destination(Origin.of(f"https://{host}/x"), Origin.of("https://10.0.0.1"), "blob")


def test_redirect_from_a_registry_with_tls_to_a_public_host_is_allowed() -> None:
    hosts.check_destination(Origin.of("https://cdn.example:8443/x"), Origin.of(GHCR), "blob")
    hosts.check_destination(Origin.of("https://10.0.0.2/x"), Origin.of("https://10.0.0.1"), "blob")


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("ghcr.io", "https://ghcr.io"),
        ("docker.io", "https://registry-1.docker.io"),
        ("example.com:5000", "https://example.com:5000"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("localhost", "https://localhost"),
        ("127.0.0.1:443", "https://127.0.0.1:443"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("localhost.example:5000", "https://localhost.example:5000"),
    ],
)
def test_registry_is_reached_by_https_unless_it_is_loopback_with_a_port(registry: str, url: str) -> None:
    assert hosts.base_url(registry) == url
