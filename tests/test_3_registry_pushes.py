"""Pushes: what is uploaded is what was described, goes on where it broke, and never elsewhere."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    ContentChangedError,
    CsiOrasError,
    DigestMismatchError,
    PushRefusedError,
    RegistryUnavailableError,
    StoreBrokenError,
    UnauthenticatedError,
)
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import in_file, in_memory
from csi_oras.registry.transport import Transport
from csi_oras.telemetry.progress import Counter
from tests.support.artifacts import OCI_MANIFEST, sha256
from tests.support.certificates import Authority, server_context
from tests.support.fake_registry import FakeRegistry, TLSRegistry
from tests.support.fake_server import Answer, FakeServer, Request, header, status
from tests.support.fakes import Connect
from tests.support.hosts import CertsD
from tests.support.pushing import BLOB, CHUNK, CONTENT, ME, UPLOADS, WHOLE, held, spans

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.push_fixtures"]


# -- what everybody does


def test_upload_and_manifest_are_there_afterwards(fake: FakeRegistry, connect: Connect) -> None:
    client, blob = connect("t/new").pushes(), Descriptor.of(b"pushed", "a/b")
    assert not client.has_blob(blob.digest)
    assert client.upload(blob, in_memory(b"pushed"))
    assert client.has_blob(blob.digest)
    assert client.put_manifest("v1", b"{}", OCI_MANIFEST) == Digest.of(b"{}")
    assert held(fake, "t/new") == {str(blob.digest): b"pushed"}
    assert fake.manifests["t/new"]["v1"] == (b"{}", OCI_MANIFEST)
    assert fake.uploads.open == {}


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "a byte", "several chunks"])
def test_upload_is_one_put_whatever_the_size(fake: FakeRegistry, client: PushClient, content: bytes) -> None:
    client.upload(Descriptor.of(content, "a/b"), in_memory(content))
    assert held(fake) == {sha256(content): content}
    assert spans(fake) == ["PUT"]


def test_push_to_a_token_registry_asks_for_both_actions_before_the_body(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(anonymous=True)
    connect("t/new").pushes().put_manifest("v1", b"{}", OCI_MANIFEST)
    assert [request.method for request in fake.seen("/manifests/")] == ["PUT"]
    assert fake.seen("/token")[0].query["scope"] == "repository:t/new:pull,push"


def test_upload_with_another_algorithm_names_it(fake: FakeRegistry, client: PushClient) -> None:
    digest = Digest.parse(f"sha512:{hashlib.sha512(b'x').hexdigest()}")
    with pytest.raises(PushRefusedError):  # the fake registry knows sha256 alone
        client.upload(Descriptor(media_type="a/b", digest=digest, size=1), in_memory(b"x"))
    assert fake.seen(UPLOADS, "POST")[0].query == {"digest-algorithm": "sha512"}


def test_open_registry_is_asked_nothing_between_the_bodies(fake: FakeRegistry, client: PushClient) -> None:
    for content in (b"one", b"two"):
        client.upload(Descriptor.of(content, "a/b"), in_memory(content))
    client.put_manifest("v1", b"{}", OCI_MANIFEST)
    assert [request.method for request in fake.seen()] == ["POST", "PUT", "POST", "PUT", "PUT"]


# -- what is sent is what was described


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "has 30499 bytes instead of 30500"),
        (b"", "has 0 bytes instead of 30500"),
        (CONTENT + b"x", "has more than 30500 bytes"),
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "has another digest"),
    ],
    ids=["shorter", "empty", "longer", "other"],
)
@pytest.mark.parametrize("least_chunk", [0, 1], ids=["whole", "in chunks"])
def test_source_that_changed_is_never_whole_at_the_registry_and_the_upload_is_cancelled(
    fake: FakeRegistry, client: PushClient, content: bytes, message: str, least_chunk: int
) -> None:
    fake.uploads.least_chunk = least_chunk
    with pytest.raises(ContentChangedError, match=f"{message}: it was changed while it was pushed"):
        client.upload(BLOB, in_memory(content))
    assert held(fake) == {}
    assert fake.count(UPLOADS, "DELETE") == 1
    assert all(len(request.body) < len(CONTENT) for request in fake.seen(UPLOADS))


def test_empty_blob_that_is_not_empty_any_more_is_refused(fake: FakeRegistry, client: PushClient) -> None:
    with pytest.raises(ContentChangedError, match="has more than 0 bytes"):
        client.upload(Descriptor.of(b"", "a/b"), in_memory(b"x"))
    assert b"x" not in held(fake).values()


def test_source_that_cannot_be_read_is_no_failure_of_the_registry(
    fake: FakeRegistry, client: PushClient, tmp_path: Path
) -> None:
    with pytest.raises(StoreBrokenError, match="cannot be read"):
        client.upload(BLOB, in_file(tmp_path / "gone"))

    class Broken(io.RawIOBase):
        def readinto(self, _buffer: object, /) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(StoreBrokenError, match="Input/output error"):
        client.upload(BLOB, lambda _offset: Broken())
    assert held(fake) == {}


# -- chunks


def test_registry_that_names_a_length_gets_chunks(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == WHOLE


def test_chunks_are_no_smaller_than_the_registry_wants(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 2 * CHUNK
    client.upload(BLOB, in_memory(CONTENT))
    assert spans(fake) == ["PATCH 0-19999", "PATCH 20000-30499", "PUT"]


@pytest.mark.parametrize("least", ["1e30", "-1", "9" * 21, "9" * 20, "x", "\u0661"], ids=ascii)
def test_length_of_chunks_that_makes_no_sense_leaves_one_put(
    fake: FakeRegistry, client: PushClient, least: str
) -> None:
    fake.bend(UPLOADS, header(OCI_Chunk_Min_Length=least.encode().decode("latin-1")), method="POST")
    client.upload(BLOB, in_memory(CONTENT))
    assert spans(fake) == ["PUT"]


@pytest.mark.parametrize("code", [400, 405, 413, 414])
def test_large_put_that_is_refused_goes_in_chunks(fake: FakeRegistry, client: PushClient, code: int) -> None:
    fake.bend(UPLOADS, status(code), method="PUT", times=1)
    assert client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == ["PUT", *WHOLE]


def test_large_put_that_is_refused_before_its_end_goes_in_chunks(fake: FakeRegistry, connect: Connect) -> None:
    content = bytes(8 << 20)  # more than what sockets hold: we are cut off in the middle
    fake.interrupt(UPLOADS, 100, method="PUT", times=1, answer=Answer(status=413))
    connect().pushes(1 << 20).upload(Descriptor.of(content, "a/b"), in_memory(content))
    assert held(fake) == {sha256(content): content}
    assert len(spans(fake)) == 1 + 8 + 1
    assert fake.count(UPLOADS, "DELETE") == 1


def test_large_put_that_is_refused_before_its_end_goes_in_chunks_over_tls(tmp_path: Path, transport: Transport) -> None:
    content, authority, certs = bytes(8 << 20), Authority(tmp_path / "pki"), CertsD(tmp_path / "certs.d")
    with TLSRegistry(server_context(authority.pair("server"))) as secure:
        certs.write(secure.address, f'server = "https://{secure.address}"\nca = "{authority.ca}"\n')
        secure.interrupt(UPLOADS, 100, method="PUT", times=1, answer=Answer(status=413))
        repository = Repository(registry=secure.address, name="t/x")
        client = Registries(transport, certs.directories).repository(repository, None)
        client.pushes(1 << 20).upload(Descriptor.of(content, "a/b"), in_memory(content))
        assert held(secure) == {sha256(content): content}
        assert secure.count(UPLOADS, "GET") == 0  # the refusal was read, and nothing had to be found out


def test_small_put_that_is_refused_is_an_error_with_the_registrys_words(fake: FakeRegistry, connect: Connect) -> None:
    said = b'{"errors": [{"code": "DENIED", "message": "quota exceeded"}]}'
    fake.bend(UPLOADS, status(413, said), method="PUT")
    with pytest.raises(PushRefusedError, match=r'does not take it \(status 413\) \("quota exceeded"\)'):
        connect().pushes().upload(BLOB, in_memory(CONTENT))
    assert spans(fake) == ["PUT"]
    assert fake.count(UPLOADS, "DELETE") == 1


def test_chunks_that_are_refused_too_are_an_error(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.largest = 100
    with pytest.raises(PushRefusedError, match="status 413"):
        client.upload(BLOB, in_memory(CONTENT))
    assert spans(fake) == ["PUT", "PATCH 0-9999"]


# -- mounts


@pytest.fixture
def base(fake: FakeRegistry) -> Repository:
    """A repository that has the blob."""
    fake.blob("t/base", CONTENT)
    return Repository(registry=fake.address, name="t/base")


def test_blob_of_another_repository_is_mounted(fake: FakeRegistry, client: PushClient, base: Repository) -> None:
    counter = Counter(BLOB.size)
    assert not client.upload(BLOB, in_memory(CONTENT), counter, base)
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == []
    assert (counter.done, counter.fetched) == (BLOB.size, 0)


def test_token_for_a_mount_is_for_both_repositories_and_no_more(
    fake: FakeRegistry, connect: Connect, base: Repository
) -> None:
    fake.require_tokens(me="right-password")
    client = connect(credential=ME).pushes()
    assert not client.upload(BLOB, in_memory(CONTENT), mount_from=base)
    client.has_blob(BLOB.digest)
    assert [request.query["scope"] for request in fake.seen("/token")] == [
        "repository:t/x:pull,push repository:t/base:pull",
        "repository:t/x:pull,push",
    ]


def test_registry_that_mounts_nothing_gets_the_bytes_in_the_session_that_it_opened(
    fake: FakeRegistry, client: PushClient, base: Repository
) -> None:
    fake.mounts = False
    assert client.upload(BLOB, in_memory(CONTENT), mount_from=base)
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert fake.count(UPLOADS, "POST") == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405])
def test_mount_that_is_refused_leaves_the_upload(
    fake: FakeRegistry, client: PushClient, base: Repository, code: int
) -> None:
    fake.bend(UPLOADS, status(code), method="POST", times=1)
    assert client.upload(BLOB, in_memory(CONTENT), mount_from=base)
    assert held(fake) == {str(BLOB.digest): CONTENT}


def test_blob_at_another_registry_is_not_mounted(fake: FakeRegistry, client: PushClient) -> None:
    assert client.upload(BLOB, in_memory(CONTENT), mount_from=Repository(registry="other.example", name="t/base"))
    assert fake.seen(UPLOADS, "POST")[0].query == {}


# -- lies


@pytest.mark.row("D14")
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_blob_that_the_registry_calls_another_is_refused(
    fake: FakeRegistry, client: PushClient, base: Repository, method: str
) -> None:
    fake.bend(UPLOADS, header(Docker_Content_Digest=sha256(b"other")), method=method)
    with pytest.raises(DigestMismatchError, match="says that it has taken sha256:"):
        client.upload(BLOB, in_memory(CONTENT), mount_from=base if method == "POST" else None)


@pytest.mark.row("D14")
def test_manifest_that_the_registry_calls_another_is_refused(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend("/manifests/", header(Docker_Content_Digest=sha256(b"other")), method="PUT")
    for identifier in ("v1", sha256(b"{}")):
        with pytest.raises(DigestMismatchError, match="says that it has taken sha256:"):
            client.put_manifest(identifier, b"{}", OCI_MANIFEST)


@pytest.mark.parametrize("answered", ["", "sha512:" + "0" * 128, "x\x1b[31m"])
def test_digest_of_another_algorithm_or_none_says_nothing(
    fake: FakeRegistry, client: PushClient, answered: str
) -> None:
    fake.bend("/", header(Docker_Content_Digest=answered), method="PUT")
    client.upload(BLOB, in_memory(CONTENT))
    assert client.put_manifest("v1", b"{}", OCI_MANIFEST) == Digest.of(b"{}")


ELSEWHERE = [
    "{evil}",
    "//{evil_address}/x",
    "https://{address}/x",
    "http://u:p@{address}/x",
    "file:///x",
    "http://[",
]


@pytest.mark.row("D4")
@pytest.mark.parametrize("location", ELSEWHERE)
@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
def test_upload_that_is_sent_elsewhere_gets_nothing_there(
    fake: FakeRegistry, evil: FakeServer, connect: Connect, method: str, location: str
) -> None:
    fake.require_basic("me", "right-password")
    fake.uploads.least_chunk = 1
    there = location.format(evil=evil.url("/upload"), evil_address=evil.address, address=fake.address)
    client = connect(credential=ME).pushes(CHUNK)
    client.has_blob(BLOB.digest)  # the credential is known from here on
    fake.bend(UPLOADS, header(Location=there), method=method)
    fake.interrupt("uploads/1-1", 100, method="PATCH", times=1)
    with pytest.raises(BadResponseError):
        client.upload(BLOB, in_memory(CONTENT))
    assert evil.count() == 0


@pytest.mark.row("D4")
@pytest.mark.parametrize("location", ELSEWHERE)
def test_access_is_not_proven_by_an_upload_elsewhere(
    fake: FakeRegistry, evil: FakeServer, client: PushClient, location: str
) -> None:
    there = location.format(evil=evil.url("/upload"), evil_address=evil.address, address=fake.address)
    fake.bend(UPLOADS, header(Location=there), method="POST")
    with pytest.raises(BadResponseError):
        client.may_push()
    assert (evil.count(), fake.count(method="DELETE")) == (0, 0)


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirect_of_an_upload_is_not_followed(
    fake: FakeRegistry, evil: FakeServer, client: PushClient, code: int
) -> None:
    for method in ("POST", "PUT"):
        fake.bend(UPLOADS, status(code, Location=evil.url("/upload")), method=method)
        with pytest.raises(BadResponseError):
            client.upload(BLOB, in_memory(CONTENT))
        fake.straighten()
    assert evil.count() == 0


@pytest.mark.row("D4")
def test_upload_that_is_sent_nowhere_is_refused(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, status(202), method="POST")
    with pytest.raises(BadResponseError, match="does not say where"):
        client.upload(BLOB, in_memory(CONTENT))
    assert spans(fake) == []


# -- who may push


def test_access_is_proven_and_leaves_no_upload(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_basic("me", "right-password")
    connect("t/new", ME).pushes().may_push()
    assert fake.count(UPLOADS, "POST") > 0
    assert fake.uploads.open == {}


@pytest.mark.parametrize("code", [401, 403, 404, 405, 500, 501])
def test_access_is_proven_whatever_becomes_of_the_upload(fake: FakeRegistry, client: PushClient, code: int) -> None:
    fake.bend(UPLOADS, status(code), method="DELETE")
    client.may_push()
    assert fake.count(UPLOADS, "DELETE") == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (401, UnauthenticatedError),
        (403, AccessDeniedError),
        (404, ArtifactNotFoundError),
        (400, PushRefusedError),
        (405, PushRefusedError),
        (429, RegistryUnavailableError),
        (503, RegistryUnavailableError),
        (200, BadResponseError),
    ],
)
def test_access_that_is_refused_says_whether_that_may_pass(
    fake: FakeRegistry, client: PushClient, code: int, error: type[CsiOrasError]
) -> None:
    fake.bend(UPLOADS, status(code), method="POST")
    with pytest.raises(error) as caught:
        client.may_push()
    assert type(caught.value) is error


def test_repository_that_is_not_there_and_that_no_push_makes_is_told(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, status(404), method="POST")
    with pytest.raises(ArtifactNotFoundError, match=r"has no such repository.*make the repository first"):
        client.may_push()


# -- manifests and tags


@pytest.mark.parametrize("code", [200, 204, 301, 307, 404, 500])
def test_put_that_is_not_created_is_an_error(fake: FakeRegistry, client: PushClient, code: int) -> None:
    fake.bend("/manifests/", status(code, Location="/elsewhere"))
    with pytest.raises(CsiOrasError):
        client.put_manifest("v1", b"{}", OCI_MANIFEST)
    assert fake.count("/elsewhere") == 0


def test_manifest_is_put_again_after_a_failure_that_passes(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend("/manifests/", status(503), method="PUT", times=2)
    client.put_manifest("v1", b"{}", OCI_MANIFEST)
    assert fake.manifests["t/x"]["v1"] == (b"{}", OCI_MANIFEST)


@pytest.mark.parametrize(("code", "word"), [(400, "manifest blob unknown"), (409, "tag is immutable"), (413, "large")])
def test_manifest_that_is_refused_for_good_is_put_once(
    fake: FakeRegistry, client: PushClient, code: int, word: str
) -> None:
    said = b'{"errors": [{"code": "X", "message": "%s"}]}' % word.encode()
    fake.bend("/manifests/", status(code, said), method="PUT")
    with pytest.raises(PushRefusedError, match=word):
        client.put_manifest("v1", b"{}", OCI_MANIFEST)
    assert fake.count("/manifests/", "PUT") == 1


def test_tag_means_what_the_registry_says_or_nothing(fake: FakeRegistry, client: PushClient) -> None:
    assert client.tag_digest("v1") is None
    digest = fake.manifest("t/x", "v1", b'{"a": 1}')
    assert str(client.tag_digest("v1")) == digest
    assert fake.count("/manifests/", "GET") == 0


@pytest.mark.parametrize(
    "bend",
    [status(405), status(400), status(501), header(Docker_Content_Digest=""), header(Docker_Content_Digest="x")],
    ids=["405", "400", "501", "no digest", "no digest by the grammar"],
)
def test_tag_is_asked_by_get_where_head_tells_nothing(
    fake: FakeRegistry, client: PushClient, bend: Callable[[Request, Answer], Answer]
) -> None:
    digest = fake.manifest("t/x", "v1", b'{"a": 1}')
    fake.bend("/manifests/", bend, method="HEAD")
    assert str(client.tag_digest("v1")) == digest


@pytest.mark.parametrize("code", [401, 403, 429, 500])
def test_tag_that_the_registry_does_not_tell_is_not_nothing(fake: FakeRegistry, client: PushClient, code: int) -> None:
    fake.bend("/manifests/", status(code))
    with pytest.raises(CsiOrasError):
        client.tag_digest("v1")


def test_tag_is_moved_only_from_what_it_was(fake: FakeRegistry, client: PushClient) -> None:
    first, second = Digest.of(b'{"a": 1}'), Digest.of(b'{"a": 2}')
    assert client.move_tag("v1", b'{"a": 1}', OCI_MANIFEST, None)
    assert not client.move_tag("v1", b'{"a": 3}', OCI_MANIFEST, None)
    assert client.move_tag("v1", b'{"a": 2}', OCI_MANIFEST, first)
    assert not client.move_tag("v1", b'{"a": 3}', OCI_MANIFEST, first)
    assert client.tag_digest("v1") == second
    del fake.manifests["t/x"]["v1"]
    assert not client.move_tag("v1", b'{"a": 3}', OCI_MANIFEST, second)
    assert "v1" not in fake.manifests["t/x"]


def test_tag_that_is_moved_already_is_left_alone(fake: FakeRegistry, client: PushClient) -> None:
    client.put_manifest("v1", b"{}", OCI_MANIFEST)
    assert client.move_tag("v1", b"{}", OCI_MANIFEST, None)
    assert fake.count("/manifests/", "PUT") == 1
