"""Pushes to registries as they are: CNCF distribution, open and behind htpasswd, and go-containerregistry's."""

import io
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.errors import ContentChangedError, RegistryUnavailableError, UnauthenticatedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import Readable, Source, in_file, in_memory
from csi_oras.registry.transport import Transport
from tests.support.artifacts import EMPTY_TYPE, OCI_MANIFEST, Layer, manifest
from tests.support.fakes import user
from tests.support.private_registry import PASSWORD, USER, private_registry
from tests.support.referrers_registry import referrers_registry

pytestmark = pytest.mark.needs("registry")

LIMIT = 1 << 20
CHUNK = 1 << 20
_SIZE = 3 * CHUNK + 12_345
CONTENT = os.urandom(_SIZE)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
ME = user(USER, PASSWORD)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distribution]:
    """A registry that lets in nobody but one user."""
    with private_registry(tmp_path_factory.mktemp("private")) as (running, _):
        yield running


@pytest.fixture(
    scope="module",
    params=["distribution", pytest.param("go-containerregistry", marks=pytest.mark.needs("referrers registry"))],
)
def address(
    request: pytest.FixtureRequest, registry: Distribution, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where a registry listens that takes pushes from everybody."""
    if request.param == "distribution":
        yield registry.address
        return
    with referrers_registry(tmp_path_factory.mktemp("referrers") / "registry.log") as pusher:
        yield pusher.address


@pytest.fixture
def registries() -> Iterator[Registries]:
    transport = Transport()
    yield Registries(transport)
    transport.close()


def opened(registries: Registries, address: str, name: str, credential: Credential | None = None) -> RepositoryClient:
    return registries.repository(Repository(registry=address, name=name), credential)


def breaking(content: bytes, *, after: int, times: int = 1) -> Source:
    """A source that breaks so often, so many bytes after it was opened; the request breaks with it."""
    left = [times]

    class Breaking(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if left[0] and self.tell() + len(buffer) > after:
                left[0] -= 1
                raise RegistryUnavailableError("source", "broke")
            return super().readinto(buffer[: 64 << 10])

    def source(offset: int) -> AbstractContextManager[Readable]:
        return Breaking(content[offset:])

    return source


def test_push_with_the_right_password_only(private: Distribution, registries: Registries, repository: str) -> None:
    blob, config = Descriptor.of(b"pushed", "a/b"), Descriptor.of(b"{}", "a/b")
    stranger = opened(registries, private.address, repository).pushes()
    for attempt in (stranger.may_push, lambda: stranger.upload(blob, in_memory(b"pushed"))):
        with pytest.raises(UnauthenticatedError):
            attempt()
    reader = opened(registries, private.address, repository, ME)
    client = reader.pushes()
    client.may_push()
    assert not client.has_blob(blob.digest)
    client.upload(blob, in_memory(b"pushed"))
    client.upload(config, in_memory(b"{}"))
    content = manifest([Layer(content=b"pushed", title="a")])
    digest = client.put_manifest("v1", content, OCI_MANIFEST)
    assert client.has_blob(blob.digest)
    assert client.tag_digest("v1") == digest == reader.manifest(str(digest), limit=LIMIT, expected=digest).digest


def test_access_that_was_proven_leaves_no_upload(
    registry: Distribution, registries: Registries, repository: str
) -> None:
    opened(registries, registry.address, repository).pushes().may_push()
    left = registry.directory / "data/docker/registry/v2/repositories" / repository / "_uploads"
    assert list(left.rglob("data")) == []  # a hash of nothing, distribution 2.8 forgets there


@pytest.mark.parametrize("chunk", [_SIZE, CHUNK], ids=["whole", "in chunks"])
@pytest.mark.parametrize("broken", [0, 1, 3], ids=["unbroken", "broken once", "broken thrice"])
def test_upload_is_whole_whatever_happens_on_the_way(
    address: str, registries: Registries, repository: str, chunk: int, broken: int
) -> None:
    content = os.urandom(_SIZE)  # of its own: some registries find a blob in any repository
    client, blob = opened(registries, address, repository), Descriptor.of(content, "a/b")
    assert client.pushes(chunk).upload(blob, breaking(content, after=chunk // 2, times=broken))
    assert client.small_blob(blob) == content


def test_source_that_changed_leaves_no_blob(address: str, registries: Registries, repository: str) -> None:
    blob = Descriptor.of(repository.encode(), "a/b")
    client = opened(registries, address, repository).pushes()
    with pytest.raises(ContentChangedError):
        client.upload(blob, in_memory(repository.encode().upper()))
    assert not client.has_blob(blob.digest)


def test_large_upload_takes_little_memory(
    registry: Distribution, registries: Registries, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(64 << 20))
    blob = Descriptor(media_type="a/b", digest=Digest.of(bytes(64 << 20)), size=64 << 20)
    client = opened(registries, registry.address, repository).pushes(16 << 20)
    tracemalloc.start()
    try:
        client.upload(blob, in_file(tmp_path / "large"))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert client.has_blob(blob.digest)


def test_blob_of_another_repository_is_mounted_without_its_bytes(
    registry: Distribution, registries: Registries, repository: str
) -> None:
    base = Repository(registry=registry.address, name=f"{repository}/base")
    opened(registries, registry.address, base.name).pushes().upload(BLOB, in_memory(CONTENT))
    client = opened(registries, registry.address, repository)

    def unread(_offset: int) -> AbstractContextManager[Readable]:
        raise AssertionError("nobody needs the bytes")

    assert not client.pushes().upload(BLOB, unread, mount_from=base)
    assert client.small_blob(BLOB) == CONTENT


def test_blob_that_the_other_repository_does_not_have_is_uploaded(
    address: str, registries: Registries, repository: str
) -> None:
    blob = Descriptor.of(repository.encode(), "a/b")
    client = opened(registries, address, repository)
    empty = Repository(registry=address, name=f"{repository}/empty")
    assert client.pushes().upload(blob, in_memory(repository.encode()), mount_from=empty)
    assert client.small_blob(blob) == repository.encode()


def test_tag_is_moved_only_from_what_it_was(address: str, registries: Registries, repository: str) -> None:
    client = opened(registries, address, repository).pushes()
    client.upload(Descriptor.of(b"{}", EMPTY_TYPE), in_memory(b"{}"))
    first, second, third = (manifest([], annotations={"number": str(number)}) for number in range(3))
    assert client.tag_digest("v1") is None
    assert client.move_tag("v1", first, OCI_MANIFEST, None)
    assert client.move_tag("v1", second, OCI_MANIFEST, Digest.of(first))
    assert not client.move_tag("v1", third, OCI_MANIFEST, Digest.of(first))
    assert client.tag_digest("v1") == Digest.of(second)


def test_blob_whose_record_a_kill_has_torn_is_uploaded_again(
    registry: Distribution, registries: Registries, repository: str
) -> None:
    client, blob = opened(registries, registry.address, repository).pushes(), Descriptor.of(b"torn", "a/b")
    client.upload(blob, in_memory(b"torn"))
    layers = registry.directory / "data/docker/registry/v2/repositories" / repository / "_layers"
    link = layers / blob.digest.algorithm / blob.digest.encoded / "link"
    link.write_bytes(b"")  # as distribution 2.8 leaves it; it answers 500 from then on
    assert not client.has_blob(blob.digest)
    client.upload(blob, in_memory(b"torn"))
    assert client.has_blob(blob.digest)
