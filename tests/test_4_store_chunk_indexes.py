"""The node's own chunk indexes: proven when they are read, as many as there is room for."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.oci.chunk_index import BlobIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.store.chunk_indexes import OwnIndexes
from csi_oras.store.paths import StatePaths
from tests.support.chunks import blob_index

CONTENT = b"x" * (3 << 20)
BLOB = Descriptor.of(CONTENT, "a/b")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


def file_of(paths: StatePaths, digest: Digest = BLOB.digest) -> Path:
    return paths.root / "indexes" / "sha256" / digest.encoded


def test_index_is_found_again_by_another_process(paths: StatePaths) -> None:
    assert OwnIndexes(paths).find(BLOB) is None
    OwnIndexes(paths).add(blob_index(CONTENT))
    assert OwnIndexes(paths).find(BLOB) == blob_index(CONTENT)
    assert file_of(paths).stat().st_mode & 0o077 == 0 or file_of(paths).parent.stat().st_mode & 0o077 == 0
    assert list(paths.staging.iterdir()) == []


def test_index_of_a_long_digest_is_kept_beside_the_others(paths: StatePaths) -> None:
    long = Digest("sha512", "ab" * 64)
    OwnIndexes(paths).add(replace(blob_index(CONTENT), digest=long))
    assert OwnIndexes(paths).find(replace(BLOB, digest=long)) is not None
    assert (paths.root / "indexes/sha512" / long.encoded).exists()


def test_index_is_no_other_blobs(paths: StatePaths) -> None:
    OwnIndexes(paths).add(blob_index(CONTENT))
    file_of(paths, Digest.of(b"other")).write_bytes(file_of(paths).read_bytes())
    assert OwnIndexes(paths).find(replace(BLOB, digest=Digest.of(b"other"))) is None
    assert OwnIndexes(paths).find(replace(BLOB, size=BLOB.size + 1)) is None


@pytest.mark.parametrize("at", [0, 63, 64, 200, -1])
def test_index_that_has_rotted_is_none_and_goes(paths: StatePaths, at: int) -> None:
    OwnIndexes(paths).add(blob_index(CONTENT))
    content = bytearray(file_of(paths).read_bytes())
    content[at] ^= 1
    file_of(paths).write_bytes(content)
    assert OwnIndexes(paths).find(BLOB) is None
    assert not file_of(paths).exists()
    OwnIndexes(paths).add(blob_index(CONTENT))
    assert OwnIndexes(paths).find(BLOB) is not None


@pytest.mark.parametrize("length", [0, 10, 64, 150])
def test_index_that_was_torn_is_none_and_goes(paths: StatePaths, length: int) -> None:
    OwnIndexes(paths).add(blob_index(CONTENT))
    os.truncate(file_of(paths), length)
    assert OwnIndexes(paths).find(BLOB) is None
    assert not file_of(paths).exists()


def test_least_recently_used_goes_first(paths: StatePaths) -> None:
    indexes = OwnIndexes(paths, most_bytes=3 * 4096)
    blobs = [blob_index(b"%d" % number * (2 << 20)) for number in range(5)]
    for number, blob in enumerate(blobs):
        indexes.add(blob)
        os.utime(file_of(paths, blob.digest), (number, number))

    def find(blob: BlobIndex) -> BlobIndex | None:
        return indexes.find(Descriptor(media_type="a/b", digest=blob.digest, size=blob.size))

    indexes.trim()
    assert [number for number, blob in enumerate(blobs) if file_of(paths, blob.digest).exists()] == [2, 3, 4]
    assert find(blobs[2]) is not None  # which uses it
    indexes.add(blobs[0])
    indexes.trim()
    assert [number for number, blob in enumerate(blobs) if file_of(paths, blob.digest).exists()] == [0, 2, 4]


def test_trim_of_nothing_is_nothing(paths: StatePaths) -> None:
    OwnIndexes(paths).trim()
    assert not paths.indexes.exists()
