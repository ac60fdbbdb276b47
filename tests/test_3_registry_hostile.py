"""Hostile servers, row by row: what each of them does, and which tests play it.

A row is a way in which a registry, or somebody in its place, misbehaves (D), or in which a signature is none (E).
Tests name their rows by a marker, wherever they stand; here are those that have no better place, and the proof that
no row is without a test.
"""

import gzip
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import (
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
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import in_memory
from csi_oras.registry.transport import Transport
from tests.support.artifacts import OCI_MANIFEST, files
from tests.support.certificates import Authority, server_context
from tests.support.fake_registry import FakeRegistry, TLSRegistry, basic
from tests.support.fake_server import Answer, FakeServer, header, raw, redirect, status
from tests.support.fakes import Connect, user
from tests.support.hosts import CertsD

pytest_plugins = ["tests.support.fake_fixtures"]

ROWS = {
    "D1": "realm elsewhere",
    "D2": "redirect that would take the credential along",
    "D4": "upload sent elsewhere",
    "D5": "pages elsewhere, or without end",
    "D6": "encoded answers",
    "D7": "lengths that are wrong",
    "D10": "answers that do not come",
    "D11": "headers without end",
    "D12": "pauses without end",
    "D13": "statuses that mean something else",
    "D14": "digest in a header",
    "D16": "tokens that are none",
    "D17": "challenges that are none",
    "D18": "certificates that prove nothing",
    "D20": "proxies and credentials of the environment",
    "D21": "credential helpers of a tenant",
    "D23": "referrers without end",
    "E1": "signature on another digest",
    "E2": "signature of another type",
    "E3": "no signature",
    "E4": "signature that cannot be read",
    "E8": "signature in another spelling",
    "E9": "older artifact with its signature",
    "E10": "signature with a certificate, by a key that nobody named",
}


def test_every_row_is_played_by_a_test() -> None:
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    marks = [found for text in sources for found in re.findall(r"^@pytest\.mark\.row\(([^)]*)\)$", text, re.MULTILINE)]
    assert {row for mark in marks for row in re.findall(r'"([^"]+)"', mark)} == set(ROWS)


LIMIT = 1 << 20
ME = user("me", "right-password")
CONTENT = bytes(range(200))
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
Trusting = Callable[[str], RepositoryClient]


@pytest.fixture(autouse=True)
def artifact(fake: FakeRegistry) -> None:
    fake.artifact("t/x", files(a=CONTENT))


# -- TLS: what a registry with a good certificate must not talk us into, and what a bad one is


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def secure(authority: Authority) -> Iterator[TLSRegistry]:
    with TLSRegistry(server_context(authority.pair("server"))) as running:
        running.artifact("t/x", files(a=CONTENT))
        running.require_basic("me", "right-password")
        yield running


@pytest.fixture
def trusting(tmp_path: Path, authority: Authority, transport: Transport) -> "Trusting":
    """What opens a registry that is reached by TLS, with a credential."""
    certs = CertsD(tmp_path / "certs.d")

    def opened(address: str) -> RepositoryClient:
        certs.write(address, f'server = "https://{address}"\nca = "{authority.ca}"\n')
        return Registries(transport, certs.directories).repository(Repository(registry=address, name="t/x"), ME)

    return opened


@pytest.mark.row("D2")
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirect_that_gives_up_tls_is_refused_before_anything_is_sent(
    secure: TLSRegistry, evil: FakeServer, trusting: Trusting, code: int
) -> None:
    client = trusting(secure.address)
    secure.bend("/blobs/", redirect(evil.url("/away"), code))
    with pytest.raises(BadResponseError, match="without TLS"):
        client.small_blob(BLOB)
    assert evil.count() == 0


@pytest.mark.row("D1")
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
def test_realm_that_gives_up_tls_never_sees_the_credential(
    secure: TLSRegistry, evil: FakeServer, trusting: Trusting, path: str
) -> None:
    client = trusting(secure.address)
    secure.bend(path, status(401, WWW_Authenticate=f'Bearer realm="{evil.url("/token")}"'))
    with pytest.raises(BadResponseError, match="without TLS"):
        client.manifest("v1", limit=LIMIT) if path == "/manifests/" else client.small_blob(BLOB)
    assert evil.count() == 0


@pytest.mark.row("D4")
def test_upload_that_gives_up_tls_is_refused_before_a_byte_is_sent(
    secure: TLSRegistry, evil: FakeServer, trusting: Trusting
) -> None:
    client = trusting(secure.address)
    for location in (evil.url("/upload"), f"http://{secure.address}/v2/t/x/blobs/uploads/1"):
        secure.bend("/uploads/", header(Location=location), method="POST", times=2)
        with pytest.raises(BadResponseError):
            client.pushes().upload(BLOB, in_memory(CONTENT))
    assert evil.count() == 0
    assert secure.count(method="PUT") == 0


@pytest.mark.row("D18")
@pytest.mark.parametrize(
    ("address", "hours"), [("127.0.0.1", -1), ("127.0.0.2", 12)], ids=["expired", "another address"]
)
def test_certificate_that_proves_nothing_is_refused_before_a_request(
    authority: Authority, trusting: Trusting, address: str, hours: int
) -> None:
    with TLSRegistry(server_context(authority.pair("bad", address, hours))) as registry:
        with pytest.raises(RegistryUnavailableError, match="its certificate is not trusted"):
            trusting(registry.address).manifest("v1", limit=LIMIT)
        assert registry.count() == 0


@pytest.mark.row("D10")
def test_tls_handshake_that_drips_is_unavailable_in_time(trusting: Trusting) -> None:
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB
            while not ended.wait(0.1):
                connection.sendall(b"\0")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        client = trusting(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(RegistryUnavailableError, match="did not answer in time"), client.blob(BLOB):
            pass
        ended.set()
        dripping.join(10)


# -- encodings


@pytest.mark.row("D6")
@pytest.mark.parametrize("code", [401, 403, 404, 400])
def test_encoded_refusal_is_a_refusal_and_not_unpacked(fake: FakeRegistry, connect: Connect, code: int) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    fake.bend("/manifests/", status(code, bomb, Content_Encoding="gzip", Content_Type="application/json"))
    with pytest.raises(CsiOrasError) as caught:
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert not isinstance(caught.value, RegistryUnavailableError)
    assert len(caught.value.message) < 300


@pytest.mark.row("D6")
@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate, gzip"])
def test_encoded_token_is_none(fake: FakeRegistry, connect: Connect, encoding: str) -> None:
    fake.require_tokens(me="right-password")
    packed = gzip.compress(b'{"token": "x"}')
    fake.bend("/token", lambda _, answer: replace(answer, body=packed).having(Content_Encoding=encoding))
    with pytest.raises(BadResponseError, match="no usable token"):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert [item for item in fake.credentials_seen() if item != basic("me", "right-password")] == []


@pytest.mark.row("D6")
def test_encoded_list_of_referrers_is_refused(fake: FakeRegistry, connect: Connect) -> None:
    listing = Answer(body=gzip.compress(b"{}")).having(
        Content_Encoding="gzip", Content_Type="application/vnd.oci.image.index.v1+json"
    )
    fake.bend("/referrers/", lambda _request, _answer: listing)
    with pytest.raises(BadResponseError, match="comes encoded"):
        connect().referrers(Digest.of(b"x"))


# -- lengths

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
COUNT = b"%d" % len(CONTENT)
CHUNKED = b"%x\r\n%s\r\n0\r\n" % (len(CONTENT), CONTENT)
WHOLE = {
    "no length": HEAD + b"\r\n" + CONTENT,
    "chunks and trailers": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + CHUNKED
    + b"X-Evil: 1\r\nContent-Length: 9\r\n\r\n",
    "chunks and a length": HEAD
    + b"Content-Length: "
    + COUNT
    + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED
    + b"\r\n",
}
WRONG: dict[str, tuple[bytes, type[CsiOrasError]]] = {
    "length of more, and the end": (HEAD + b"Content-Length: 999\r\n\r\n" + CONTENT, SizeMismatchError),
    "length of less": (HEAD + b"Content-Length: 9\r\n\r\n" + CONTENT, SizeMismatchError),
    "negative length": (HEAD + b"Content-Length: -1\r\n\r\n" + CONTENT, SizeMismatchError),
    "length with a plus": (HEAD + b"Content-Length: +" + COUNT + b"\r\n\r\n" + CONTENT, SizeMismatchError),
    "two lengths": (HEAD + b"Content-Length: 9\r\nContent-Length: " + COUNT + b"\r\n\r\n" + CONTENT, SizeMismatchError),
    "no length and too much": (HEAD + b"\r\n" + CONTENT + b"x", SizeMismatchError),
    "no length and too little": (HEAD + b"\r\n" + CONTENT[:-1], SizeMismatchError),
    "no length and without end": (HEAD + b"\r\n" + CONTENT * 10_000, SizeMismatchError),
    "chunks and too much": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nxx\r\n" + CHUNKED + b"\r\n",
        SizeMismatchError,
    ),
    "length that breaks off": (HEAD + b"Content-Length: " + COUNT + b"\r\n\r\n" + CONTENT[:9], SizeMismatchError),
    "other bytes": (HEAD + b"Content-Length: " + COUNT + b"\r\n\r\n" + bytes(len(CONTENT)), DigestMismatchError),
}


@pytest.mark.row("D7")
@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE.keys())
def test_blob_that_is_whole_is_taken_however_its_length_is_told(
    fake: FakeRegistry, connect: Connect, answer: bytes
) -> None:
    fake.bend("/blobs/", raw(answer))
    assert connect().small_blob(BLOB) == CONTENT
    assert connect().small_blob(BLOB) == CONTENT


@pytest.mark.row("D7")
@pytest.mark.parametrize(("answer", "error"), WRONG.values(), ids=WRONG.keys())
def test_blob_of_another_length_is_refused_however_it_is_told(
    fake: FakeRegistry, connect: Connect, answer: bytes, error: type[CsiOrasError]
) -> None:
    fake.bend("/blobs/", raw(answer))
    with pytest.raises(error):
        connect().small_blob(BLOB)


@pytest.mark.row("D7")
def test_rest_of_an_answer_is_never_the_next_one(fake: FakeRegistry, connect: Connect) -> None:
    """What comes behind the chunks of an answer that names a length, too, would be another request's answer."""
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    fake.bend("/blobs/", raw(WHOLE["chunks and a length"] + smuggled), times=1)
    client = connect()
    assert client.small_blob(BLOB) == CONTENT
    assert client.small_blob(BLOB) == CONTENT
    assert client.manifest("v1", limit=LIMIT).media_type == OCI_MANIFEST


# -- what stands in the environment


@pytest.mark.row("D20")
def test_environment_names_no_proxy_no_authority_and_no_docker_config(
    fake: FakeRegistry, evil: FakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    for name in proxies:
        monkeypatch.setenv(name, evil.url(""))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    config = tmp_path / ".docker/config.json"
    config.parent.mkdir()
    auth = basic("me", "right-password").partition(" ")[2]
    config.write_text(f'{{"auths": {{"{fake.address}": {{"auth": "{auth}"}}}}}}')
    for name, value in (("HOME", tmp_path), ("DOCKER_CONFIG", config.parent), ("REGISTRY_AUTH_FILE", config)):
        monkeypatch.setenv(name, str(value))
    assert connect().manifest("v1", limit=LIMIT)
    fake.require_basic("me", "right-password")
    with pytest.raises(UnauthenticatedError, match="wants a credential"):
        connect().manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == []
    assert evil.count() == 0


# -- statuses


@pytest.mark.row("D13")
@pytest.mark.parametrize("code", [401, 403, 404])
def test_blob_status_is_told_as_it_is(fake: FakeRegistry, connect: Connect, code: int) -> None:
    """No one of the three is taken for another, though registries differ in what they say to who may not read."""
    fake.bend("/blobs/", status(code))
    with pytest.raises(CsiOrasError) as caught:
        connect(credential=ME).small_blob(BLOB)
    words = {401: "refuses the credential", 403: "does not allow it", 404: "does not have it"}
    assert words[code] in caught.value.message
    assert isinstance(caught.value, ArtifactNotFoundError) == (code == 404)
