"""Manifests and blobs as they come: proven, bounded, never decoded, refused when they are not what they should be."""

import gzip
import hashlib
import json
import tracemalloc

import pytest

from csi_oras.errors import (
    AccessDeniedError,
    ArtifactNotFoundError,
    BadResponseError,
    CsiOrasError,
    DigestMismatchError,
    RegistryUnavailableError,
    SizeMismatchError,
    UnauthenticatedError,
)
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.client import RepositoryClient
from tests.support.artifacts import OCI_MANIFEST, files
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import body, broken_off, header, raw, stalled, status
from tests.support.fakes import Connect

pytest_plugins = ["tests.support.fake_fixtures"]

LIMIT = 1 << 20
CONTENT = bytes(range(256)) * 40
BLOB = Descriptor.of(CONTENT, "application/octet-stream")


@pytest.fixture(autouse=True)
def artifact(fake: FakeRegistry) -> None:
    fake.blob("t/x", CONTENT)
    fake.artifact("t/x", files(a=b"alpha"))


def read(client: RepositoryClient, *span: int, blob: Descriptor = BLOB) -> bytes:
    buffer, found = memoryview(bytearray(64 << 10)), b""
    with client.blob(blob, *span) as stream:
        while count := stream.readinto(buffer):
            found += bytes(buffer[:count])
    return found


# -- manifests


def test_manifest_has_the_digest_of_its_bytes_and_the_media_type_of_the_header(
    fake: FakeRegistry, connect: Connect
) -> None:
    content = fake.manifests["t/x"]["v1"][0]
    fake.bend("/manifests/", header(Content_Type=f"{OCI_MANIFEST.upper()} ; charset=utf-8"))
    fetched = connect().manifest("v1", limit=LIMIT)
    assert (fetched.content, fetched.digest) == (content, Digest.of(content))
    assert fetched.media_type == OCI_MANIFEST
    assert fetched.descriptor.size == len(content)


def test_manifest_request_accepts_every_kind_and_asks_for_no_encoding(fake: FakeRegistry, connect: Connect) -> None:
    connect().manifest("v1", limit=LIMIT)
    headers = fake.seen()[0].headers
    assert headers["Accept"].count("application/vnd.") == 4
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers


@pytest.mark.row("D14")
def test_manifest_by_digest_with_other_bytes_is_a_digest_mismatch_whatever_the_header_says(
    fake: FakeRegistry, connect: Connect
) -> None:
    digest = Digest.of(fake.manifests["t/x"]["v1"][0])
    fake.bend("/manifests/", body(b'{"evil":1}'))  # Docker-Content-Digest stays the right one
    with pytest.raises(DigestMismatchError):
        connect().manifest(str(digest), limit=LIMIT, expected=digest)
    assert fake.count("/manifests/") == 1


@pytest.mark.parametrize("claimed", ["sha256:" + "0" * 64, "nonsense", "", "sha256:../../x"])
@pytest.mark.row("D14")
def test_manifest_by_tag_ignores_a_digest_header_that_lies(fake: FakeRegistry, connect: Connect, claimed: str) -> None:
    fake.bend("/manifests/", header(Docker_Content_Digest=claimed))
    content = fake.manifests["t/x"]["v1"][0]
    assert connect().manifest("v1", limit=LIMIT).digest == Digest.of(content)


def test_manifest_by_sha512_digest_is_proven_with_it(fake: FakeRegistry, connect: Connect) -> None:
    content = fake.manifests["t/x"]["v1"][0]
    digest = Digest.parse(f"sha512:{hashlib.sha512(content).hexdigest()}")
    fake.manifest("t/x", str(digest), content)
    assert connect().manifest(str(digest), limit=LIMIT, expected=digest).digest == digest


@pytest.mark.row("D14")
def test_digest_hint_is_the_header_of_a_head_request_or_nothing(fake: FakeRegistry, connect: Connect) -> None:
    client, content = connect(), fake.manifests["t/x"]["v1"][0]
    assert client.digest_hint("v1") == Digest.of(content)
    for nonsense in ("", "nonsense", "md5:" + "0" * 32):
        fake.bend("/manifests/", header(Docker_Content_Digest=nonsense), times=1)
        assert client.digest_hint("v1") is None
    assert {request.method for request in fake.seen()} == {"HEAD"}


def test_manifest_of_the_very_limit_is_read_and_one_byte_more_refused(fake: FakeRegistry, connect: Connect) -> None:
    size = len(fake.manifests["t/x"]["v1"][0])
    assert connect().manifest("v1", limit=size)
    with pytest.raises(BadResponseError, match=f"more than the {size - 1} bytes"):
        connect().manifest("v1", limit=size - 1)


def test_manifest_that_never_ends_is_cut_off_without_being_held(fake: FakeRegistry, connect: Connect) -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 512
    fake.bend("/manifests/", raw(endless))
    tracemalloc.start()
    with pytest.raises(BadResponseError, match="more than"):
        connect().manifest("v1", limit=LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LIMIT


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, gzip", "GZIP"])
@pytest.mark.row("D6")
def test_encoded_manifest_and_blob_are_refused_undecoded(fake: FakeRegistry, connect: Connect, encoding: str) -> None:
    fake.bend("/v2/", lambda _, answer: answer.having(Content_Encoding=encoding))
    fake.bend("/v2/", body(gzip.compress(bytes(1 << 20))))
    for action in (lambda: connect().manifest("v1", limit=LIMIT), lambda: read(connect())):
        with pytest.raises(BadResponseError, match="comes encoded"):
            action()


def test_identity_encoding_is_none(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/v2/", header(Content_Encoding="Identity"))
    assert read(connect()) == CONTENT


# -- refusals

STATUSES = [
    (401, UnauthenticatedError),
    (403, AccessDeniedError),
    (404, ArtifactNotFoundError),
    (204, BadResponseError),
    (206, BadResponseError),
    (400, BadResponseError),
    (405, BadResponseError),
    (418, BadResponseError),
    (304, BadResponseError),
]


@pytest.mark.parametrize(("code", "kind"), STATUSES)
@pytest.mark.row("D13")
def test_manifest_status_means_one_kind_of_error_and_is_not_asked_again(
    fake: FakeRegistry, connect: Connect, code: int, kind: type[CsiOrasError]
) -> None:
    fake.bend("/manifests/", status(code))
    with pytest.raises(kind, match=f"{fake.address}/t/x:v1"):
        connect().manifest("v1", limit=LIMIT)
    assert fake.count() == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_manifest_status_that_passes_is_asked_again(fake: FakeRegistry, connect: Connect, code: int) -> None:
    fake.bend("/manifests/", status(code, Retry_After="-99999999"), times=1)
    assert connect().manifest("v1", limit=LIMIT)
    assert fake.count() == 2


@pytest.mark.row("D13")
def test_error_quotes_the_registry_shortly_and_without_control_characters(fake: FakeRegistry, connect: Connect) -> None:
    said = "line\n\x1b[2J\u202e" + "x" * 10_000
    fake.bend("/manifests/", status(403, json.dumps({"errors": [{"code": "DENIED", "message": said}]}).encode()))
    with pytest.raises(AccessDeniedError) as caught:
        connect().manifest("v1", limit=LIMIT)
    assert r"line\n\x1b[2J\u202e" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"{}",
        b"[]",
        b'{"errors":[]}',
        b'{"errors":[5]}',
        b'{"errors":[{"message":5}]}',
        b"[" * 10_000,
        b"x" * 20_000,
    ],
    ids=lambda content: repr(content[:20]),
)
@pytest.mark.row("D13")
def test_error_with_any_body_keeps_its_meaning(fake: FakeRegistry, connect: Connect, content: bytes) -> None:
    fake.bend("/manifests/", status(404, content))
    with pytest.raises(ArtifactNotFoundError, match="the registry does not have it"):
        connect().manifest("v1", limit=LIMIT)


# -- blobs


def test_blob_is_read_whole_or_in_ranges(fake: FakeRegistry, connect: Connect) -> None:
    client = connect()
    assert read(client) == CONTENT
    assert read(client, 100) == CONTENT[100:]
    assert read(client, 0, 10) == CONTENT[:10]
    assert read(client, 5000, BLOB.size) == CONTENT[5000:]
    ranges = [request.headers["Range"] for request in fake.seen("/blobs/")]
    assert ranges == [None, f"bytes=100-{BLOB.size - 1}", "bytes=0-9", f"bytes=5000-{BLOB.size - 1}"]


def test_blob_range_that_the_registry_ignores_is_the_whole_and_says_so(fake: FakeRegistry, connect: Connect) -> None:
    fake.serves_ranges = False
    with connect().blob(BLOB, 100, 200) as stream:
        assert (stream.partial, stream.start) == (False, 0)
        buffer = bytearray(10)
        stream.readinto(memoryview(buffer))
        assert buffer == CONTENT[:10]


@pytest.mark.parametrize(
    ("content_range", "kind"),
    [
        (f"bytes 0-99/{BLOB.size}", BadResponseError),
        (f"bytes 100-198/{BLOB.size}", BadResponseError),
        (f"bytes 100-200/{BLOB.size}", BadResponseError),
        ("", BadResponseError),
        ("nonsense", BadResponseError),
        (f"items 100-199/{BLOB.size}", BadResponseError),
        ("bytes */5", SizeMismatchError),
        (f"bytes 100-199/{BLOB.size + 1}", SizeMismatchError),
        ("bytes 100-199/0", SizeMismatchError),
    ],
)
def test_blob_range_other_than_asked_for_is_refused(
    fake: FakeRegistry, connect: Connect, content_range: str, kind: type[CsiOrasError]
) -> None:
    fake.bend("/blobs/", header(Content_Range=content_range))
    with pytest.raises(kind):
        read(connect(), 100, 200)


def test_blob_range_of_unknown_total_is_taken(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/blobs/", header(Content_Range="bytes 100-199/*"))
    assert read(connect(), 100, 200) == CONTENT[100:200]


def test_blob_range_beyond_what_the_registry_has_is_a_size_mismatch(fake: FakeRegistry, connect: Connect) -> None:
    longer = Descriptor(media_type=BLOB.media_type, digest=BLOB.digest, size=BLOB.size + 100)
    with pytest.raises(SizeMismatchError, match="has fewer than"):
        read(connect(), BLOB.size, BLOB.size + 100, blob=longer)
    assert fake.count("/blobs/") == 1


@pytest.mark.parametrize("length", ["0", "1", str(BLOB.size - 1), str(BLOB.size + 1), "+5", "1_0", "99999999999999"])
@pytest.mark.row("D7")
def test_blob_with_another_length_is_a_size_mismatch_before_a_byte_is_read(
    fake: FakeRegistry, connect: Connect, length: str
) -> None:
    fake.bend("/blobs/", header(Content_Length=length))
    with pytest.raises(SizeMismatchError), connect().blob(BLOB):
        pytest.fail("was opened")


def test_blob_in_chunks_is_read(fake: FakeRegistry, connect: Connect) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for start in range(0, BLOB.size, 1000):
        part = CONTENT[start : start + 1000]
        chunked += b"%x;extension=1\r\n%s\r\n" % (len(part), part)
    fake.bend("/blobs/", raw(chunked + b"0\r\nTrailer: x\r\n\r\n"))
    assert read(connect()) == CONTENT


@pytest.mark.parametrize(
    "tail",
    [b"", b"5\r\nab", b"zz\r\n", b"-5\r\nabcde\r\n", b"ffffffffffffffffffff\r\nx", b"5" * 70_000],
    ids=lambda tail: repr(tail[:12]),
)
@pytest.mark.row("D7")
def test_blob_in_broken_chunks_is_unavailable_and_no_crash(fake: FakeRegistry, connect: Connect, tail: bytes) -> None:
    fake.bend("/blobs/", raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nalpha\r\n" + tail))
    with pytest.raises(RegistryUnavailableError):
        read(connect())


@pytest.mark.row("D7")
def test_blob_that_breaks_off_ends_early(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/blobs/", broken_off(1000))
    assert read(connect()) == CONTENT[:1000]  # the transfer counts: fewer bytes than the size are no blob


def test_blob_that_stalls_is_unavailable_in_time(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/blobs/", stalled(1000))
    with pytest.raises(RegistryUnavailableError, match="did not answer in time"):
        read(connect())


def test_manifest_that_breaks_off_is_asked_again(fake: FakeRegistry, connect: Connect) -> None:
    for bend in (broken_off(0), broken_off(10)):
        fake.bend("/manifests/", bend, times=1)
    assert connect().manifest("v1", limit=LIMIT).content == fake.manifests["t/x"]["v1"][0]
    assert fake.count("/manifests/") == 3


def test_blob_of_another_repository_is_not_found(fake: FakeRegistry, connect: Connect) -> None:
    del fake
    with pytest.raises(ArtifactNotFoundError):
        read(connect("t/other"))
