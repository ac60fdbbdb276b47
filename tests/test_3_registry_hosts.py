"""Several hosts for one registry: who is asked, in which order, with what, and what happens when one fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    CsiOrasError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import in_memory
from csi_oras.registry.transport import Transport
from tests.support.artifacts import OCI_MANIFEST, files
from tests.support.fake_registry import FakeRegistry, basic, bearer
from tests.support.fake_server import Bend, FakeServer, body, broken_off, header, raw, redirect, stalled, status
from tests.support.fakes import user
from tests.support.hosts import CertsD
from tests.support.planted import planted

pytest_plugins = ["tests.support.fake_fixtures"]

LIMIT = 1 << 20
ME = user("me", "my-password")
CONTENT = bytes(range(256)) * 40
BLOB = Descriptor.of(CONTENT, "application/octet-stream")


@pytest.fixture
def certs(tmp_path: Path) -> CertsD:
    return CertsD(tmp_path / "certs.d")


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    """A mirror with the same content, which must never see the registry's credential."""
    with FakeRegistry() as running:
        running.artifact("t/x", files(a=CONTENT))
        yield running
        assert basic("me", "my-password") not in running.credentials_seen()


@pytest.fixture(autouse=True)
def upstream(fake: FakeRegistry) -> FakeRegistry:
    fake.artifact("t/x", files(a=CONTENT))
    return fake


@pytest.fixture
def digest(upstream: FakeRegistry) -> Digest:
    return Digest.of(upstream.manifests["t/x"]["v1"][0])


@pytest.fixture
def open_(upstream: FakeRegistry, certs: CertsD, transport: Transport) -> "Open":
    return Open(upstream, certs, transport)


class Open:
    """Writes a hosts.toml for the registry and opens the repository t/x of it."""

    def __init__(self, upstream: FakeRegistry, certs: CertsD, transport: Transport) -> None:
        self.certs = certs
        self.registry = upstream.address
        self.registries = Registries(transport, certs.directories)

    def __call__(self, text: str, credential: Credential | None = None) -> RepositoryClient:
        self.certs.write(self.registry, text)
        return self.registries.repository(Repository(registry=self.registry, name="t/x"), credential)


def host(server: FakeServer, *settings: str) -> str:
    return "\n".join((f'[host."{server.url("")}"]', *settings, ""))


def read(client: RepositoryClient, start: int = 0) -> bytes:
    buffer = memoryview(bytearray(BLOB.size))
    done = 0
    with client.blob(BLOB, start) as stream:
        while count := stream.readinto(buffer[done:]):
            done += count
    return bytes(buffer[:done])


# -- who is asked


def test_mirror_that_has_it_is_asked_alone_and_told_for_whom(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    client = open_(host(mirror), ME)
    assert client.digest_hint("v1") == client.manifest("v1", limit=LIMIT).digest
    assert read(client) == CONTENT
    assert upstream.count() == 0
    assert [request.query for request in mirror.seen()] == [{"ns": upstream.address}] * 3


def test_hosts_are_asked_in_the_order_of_the_file(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, evil: FakeServer
) -> None:
    evil.bend("/", status(404))
    client = open_(host(evil) + host(mirror))
    client.manifest("v1", limit=LIMIT)
    assert (evil.count(), mirror.count(), upstream.count()) == (1, 1, 0)


BAD_ANSWERS: dict[str, Bend] = {
    "not found": status(404),
    "unauthorized": status(401),
    "unauthorized, basic": status(401, WWW_Authenticate="Basic realm=a"),
    "a token endpoint elsewhere": status(401, WWW_Authenticate='Bearer realm="http://evil.example/token"'),
    "forbidden": status(403),
    "too many": status(429, Retry_After="99999"),
    "failed": status(500),
    "unavailable": status(503),
    "teapot": status(418),
    "no content": status(204),
    "redirected to nowhere": status(307),
    "redirected inward": redirect("http://169.254.169.254/latest"),
    "broken off": broken_off(5),
    "stalled": stalled(5),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "encoded": header(Content_Encoding="gzip"),
    "other bytes": body(b"{}"),
    "a page": body(b"<html>log in</html>"),
    "endless": body(bytes(LIMIT + 1)),
}


@pytest.mark.parametrize("bend", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_mirror_that_answers_badly_is_passed_over_at_once(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, digest: Digest, bend: Bend
) -> None:
    upstream.require_basic("me", "my-password")
    mirror.bend("/", bend)
    client = open_(host(mirror), ME)
    assert client.manifest(str(digest), limit=LIMIT, expected=digest).digest == digest
    assert mirror.count("/manifests/") == 1


NO_MANIFESTS = [b"", b"<html>log in</html>", b"\xff", b"[]", b'"v1"', b"[" * 100_000]


@pytest.mark.parametrize("content", NO_MANIFESTS, ids=["empty", "page", "binary", "list", "text", "deep"])
def test_mirror_whose_tag_is_no_manifest_says_nothing_of_it(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, digest: Digest, content: bytes
) -> None:
    mirror.bend("/manifests/", body(content))
    client = open_(host(mirror))
    assert client.manifest("v1", limit=LIMIT).digest == digest
    upstream.bend("/manifests/", status(404))
    with pytest.raises(ArtifactNotFoundError, match=rf"the mirror http://{mirror.address} sent what "):
        client.manifest("v1", limit=LIMIT)


def test_registry_whose_tag_is_no_manifest_is_taken_at_its_word(open_: Open, upstream: FakeRegistry) -> None:
    upstream.bend("/manifests/", body(b"<html>log in</html>"))
    assert open_("").manifest("v1", limit=LIMIT).content == b"<html>log in</html>"


@pytest.mark.parametrize("bend", [status(404), status(403), status(503), header(Content_Encoding="gzip")])
def test_blob_that_a_mirror_refuses_comes_from_the_next_host(open_: Open, mirror: FakeRegistry, bend: Bend) -> None:
    mirror.bend("/blobs/", bend)
    client = open_(host(mirror))
    client.manifest("v1", limit=LIMIT)
    assert read(client) == CONTENT
    assert client.small_blob(BLOB) == CONTENT


def test_mirror_where_nobody_listens_is_passed_over(open_: Open) -> None:
    with FakeServer() as gone:
        dead = host(gone)
    assert read(open_(dead)) == CONTENT


def test_mirror_that_failed_is_asked_last_for_a_while(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.bend("/", status(503))
    client = open_(host(mirror))
    for _ in range(5):
        assert read(client) == CONTENT
    assert (mirror.count(), upstream.count()) == (1, 5)
    upstream.bend("/", status(503))  # and still, before it all fails
    mirror.straighten()
    assert read(client) == CONTENT


def test_mirror_that_lacks_something_is_asked_first_again(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.bend("/", status(404), times=1)
    client = open_(host(mirror))
    assert read(client) == read(client) == CONTENT
    assert (mirror.count(), upstream.count()) == (2, 1)


@pytest.mark.parametrize("bend", [broken_off(1000), stalled(1000)], ids=["broken off", "stalled"])
def test_transfer_that_breaks_goes_on_at_the_next_host_from_its_last_byte(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, bend: Bend
) -> None:
    mirror.bend("/blobs/", bend)
    client = open_(host(mirror))
    start, buffer = 0, memoryview(bytearray(BLOB.size))
    try:
        with client.blob(BLOB) as stream:
            while count := stream.readinto(buffer[start : start + 250]):
                start += count
    except RegistryUnavailableError:
        pass  # a stall is one
    assert bytes(buffer[:start]) == CONTENT[:1000]
    assert read(client, start) == CONTENT[1000:]
    assert upstream.seen()[0].headers["Range"] == f"bytes=1000-{BLOB.size - 1}"
    assert mirror.count() == 1


def test_error_is_the_registrys_and_names_what_the_mirror_said(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.bend("/", status(403))
    upstream.bend("/", status(404))
    with pytest.raises(ArtifactNotFoundError) as caught:
        open_(host(mirror)).manifest("v1", limit=LIMIT)
    assert "the registry does not have it (before that, the mirror http://127.0.0.1:" in caught.value.message
    assert "does not allow it" in caught.value.message
    upstream.straighten()
    upstream.bend("/", status(403))
    mirror.straighten()
    mirror.bend("/", status(404))
    with pytest.raises(AccessDeniedError):
        open_(host(mirror)).manifest("v1", limit=LIMIT)


def test_hosts_that_all_fail_for_a_while_are_asked_again(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.bend("/", status(503), times=2)
    upstream.bend("/", status(503), times=1)
    assert open_(host(mirror)).manifest("v1", limit=LIMIT)
    assert (mirror.count(), upstream.count()) == (2, 2)


def test_host_that_failed_is_logged_with_the_reason(open_: Open, mirror: FakeRegistry) -> None:
    mirror.bend("/", status(503))
    with capture_logs() as logs:
        open_(host(mirror)).manifest("v1", limit=LIMIT)
    (line,) = logs
    assert line["host"] == mirror.url("/v2")
    assert "status 503" in line["cause"]


# -- what a host may be asked for


def test_mirror_that_may_not_resolve_serves_by_digest_only(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, digest: Digest
) -> None:
    client = open_(host(mirror, 'capabilities = ["pull"]'))
    client.digest_hint("v1")
    client.manifest("v1", limit=LIMIT)
    assert (mirror.count(), upstream.count()) == (0, 2)
    client.manifest(str(digest), limit=LIMIT, expected=digest)
    assert read(client) == CONTENT
    assert (mirror.count(), upstream.count()) == (2, 2)


def test_mirror_that_may_resolve_says_what_a_tag_means(open_: Open, mirror: FakeRegistry) -> None:
    other = mirror.manifest("t/x", "v1", b'{"schemaVersion": 2, "other": 1}')
    assert str(open_(host(mirror)).manifest("v1", limit=LIMIT).digest) == other


def test_tag_that_nobody_may_resolve_is_not_found(open_: Open, upstream: FakeRegistry) -> None:
    client = open_(f'server = "{upstream.url("")}"\ncapabilities = ["pull"]\n')
    with pytest.raises(ArtifactNotFoundError, match=r"hosts\.toml for it names no host that may pull and resolve"):
        client.manifest("v1", limit=LIMIT)
    assert read(client) == CONTENT


def test_push_goes_to_the_first_host_that_takes_one(open_: Open, upstream: FakeRegistry, mirror: FakeRegistry) -> None:
    client = open_(host(mirror, 'capabilities = ["pull", "resolve"]')).pushes()
    blob = Descriptor.of(b"pushed", "a/b")
    assert not client.has_blob(blob.digest)
    client.upload(blob, in_memory(b"pushed"))
    client.put_manifest("v2", b"{}", OCI_MANIFEST)
    assert mirror.count() == 0
    assert upstream.manifests["t/x"]["v2"] == (b"{}", OCI_MANIFEST)
    # as containerd: all capabilities if none are named
    open_(host(mirror)).pushes().put_manifest("v3", b"{}", OCI_MANIFEST)
    assert "v3" in mirror.manifests["t/x"]
    assert "v3" not in upstream.manifests["t/x"]


def test_push_that_nobody_takes_is_an_error(open_: Open, upstream: FakeRegistry) -> None:
    client = open_(f'server = "{upstream.url("")}"\ncapabilities = ["pull"]\n')
    with pytest.raises(ArtifactNotFoundError, match="no host that may push"):
        client.pushes().put_manifest("v2", b"{}", OCI_MANIFEST)


def test_referrers_are_asked_of_hosts_that_have_them(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, digest: Digest
) -> None:
    open_(host(mirror, 'capabilities = ["pull", "resolve"]')).referrers(digest)
    assert mirror.count("/referrers/") == 0
    assert upstream.count("/referrers/") == 1
    open_(host(mirror)).referrers(digest, "a/b")
    assert mirror.seen("/referrers/")[0].query == {"artifactType": "a/b", "ns": upstream.address}


def test_registry_that_knows_no_head_leaves_the_digest_open(open_: Open, upstream: FakeRegistry) -> None:
    upstream.bend("/", status(405), method="HEAD")
    assert open_("").digest_hint("v1") is None


# -- what goes along


def test_credential_goes_to_the_registry_and_never_to_a_mirror(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    upstream.require_basic("me", "my-password")
    mirror.require_basic("other", "other-password")
    client = open_(host(mirror), ME)
    client.manifest("v1", limit=LIMIT)
    assert read(client) == CONTENT
    assert mirror.credentials_seen() == []
    assert upstream.credentials_seen()[-1] == basic("me", "my-password")


def test_credential_of_a_push_is_not_shown_to_a_mirror_that_takes_it(open_: Open, mirror: FakeRegistry) -> None:
    mirror.require_tokens(me="my-password")
    with pytest.raises(UnauthenticatedError, match="no anonymous token"):
        open_(host(mirror), ME).pushes().put_manifest("v2", b"{}", OCI_MANIFEST)


def test_registry_by_plain_http_and_by_its_own_name_sees_the_credential(open_: Open, upstream: FakeRegistry) -> None:
    upstream.require_basic("me", "my-password")
    assert open_(host(upstream), ME).manifest("v1", limit=LIMIT)


def test_mirror_gives_an_anonymous_token_for_its_own_name_of_the_repository(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.artifact("proxy/t/x", files(a=CONTENT))
    mirror.require_tokens(anonymous=True)
    text = f'[host."{mirror.url("/v2/proxy")}"]\noverride_path = true\n'
    assert open_(text, ME).manifest("v1", limit=LIMIT)
    assert mirror.seen("/token")[0].query["scope"] == "repository:proxy/t/x:pull"
    assert [request.path for request in mirror.seen("/manifests/")] == ["/v2/proxy/t/x/manifests/v1"] * 2
    assert upstream.count() == 0


def test_mirror_with_a_credential_of_its_own_sees_that_one(
    certs: CertsD, transport: Transport, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    mirror.require_basic("other", "other-password")
    certs.write(upstream.address, host(mirror))
    kept = {str(mirror.address): user("other", "other-password")}
    registries = Registries(transport, certs.directories, lambda host: kept.get(f"127.0.0.1:{host.origin.port}"))
    registries.repository(Repository(registry=upstream.address, name="t/x"), ME).manifest("v1", limit=LIMIT)
    assert upstream.count() == 0
    assert mirror.credentials_seen() == [basic("other", "other-password")]


TOKEN = planted("header")
HEADERS = f'[host."{{url}}".header]\nX-Team = ["a", "b"]\nAuthorization = "Bearer {TOKEN}"\nRange = "bytes=0-0"\n'


def test_headers_of_the_file_go_to_their_host_and_no_further(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry, evil: FakeServer
) -> None:
    mirror.bend("/blobs/", redirect(evil.url("/away")), times=1)
    evil.bend("/away", body(CONTENT))
    client = open_(HEADERS.format(url=mirror.url("")), ME)
    assert read(client) == CONTENT
    assert mirror.seen()[0].headers["X-Team"] == "a, b"
    assert mirror.seen()[0].authorization == f"Bearer {TOKEN}"
    assert evil.seen()[0].headers["X-Team"] is None  # and the fixture looks for credentials
    mirror.bend("/blobs/", status(404))
    assert read(client, 5) == CONTENT[5:]
    assert upstream.seen()[0].headers["X-Team"] is None


def test_headers_of_the_file_do_not_change_what_is_asked_for(open_: Open, mirror: FakeRegistry) -> None:
    assert read(open_(HEADERS.format(url=mirror.url(""))), 100) == CONTENT[100:]
    assert mirror.seen()[0].headers.get_all("Range") == [f"bytes=100-{BLOB.size - 1}"]


def test_answer_to_a_challenge_takes_the_place_of_a_header_of_the_file(open_: Open, mirror: FakeRegistry) -> None:
    mirror.require_tokens(anonymous=True)
    assert open_(HEADERS.format(url=mirror.url("")), ME).manifest("v1", limit=LIMIT)
    assert mirror.seen("/manifests/")[-1].authorization == bearer(1)
    assert mirror.seen("/token")[0].authorization == ""


def test_error_does_not_repeat_a_header_of_the_file(open_: Open, upstream: FakeRegistry, mirror: FakeRegistry) -> None:
    said = b'{"errors": [{"message": "your token is %s"}]}' % TOKEN.encode()
    mirror.bend("/", status(403, said))
    upstream.bend("/", status(404))
    with pytest.raises(ArtifactNotFoundError) as caught, capture_logs() as logs:
        open_(HEADERS.format(url=mirror.url(""))).manifest("v1", limit=LIMIT)
    assert "planted" not in caught.value.message
    assert "planted" not in str(logs)


def test_realm_or_upload_at_another_origin_is_no_way_to_a_mirrors_headers(
    open_: Open, mirror: FakeRegistry, evil: FakeServer
) -> None:
    mirror.require_tokens(realm=evil.url("/token"), anonymous=True)
    evil.bend("/token", body(b'{"token": "x"}'))
    mirror.bend("/blobs/uploads/", status(202, Location=evil.url("/upload")))
    client = open_(HEADERS.format(url=mirror.url("")), ME)
    client.manifest("v1", limit=LIMIT)
    with pytest.raises(CsiOrasError):
        client.pushes().upload(BLOB, in_memory(CONTENT))
    assert all(request.headers["X-Team"] is None for request in evil.seen())
    assert evil.count("/upload") == 0


# -- the file


def test_change_of_the_file_counts_with_the_next_pull(
    open_: Open, upstream: FakeRegistry, mirror: FakeRegistry
) -> None:
    open_("").manifest("v1", limit=LIMIT)
    client = open_(host(mirror))
    client.manifest("v1", limit=LIMIT)
    assert (mirror.count(), upstream.count()) == (1, 1)
    open_("# none any more\n").manifest("v1", limit=LIMIT)
    client.manifest("v1", limit=LIMIT)  # a pull goes on as it began
    assert (mirror.count(), upstream.count()) == (2, 2)


def test_file_that_is_wrong_stops_every_request(open_: Open, upstream: FakeRegistry, mirror: FakeRegistry) -> None:
    with pytest.raises(RegistryUnavailableError, match="unknown capability"):
        open_(host(mirror, 'capabilities = ["pul"]'))
    assert (mirror.count(), upstream.count()) == (0, 0)
