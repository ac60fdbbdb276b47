"""Chunk indexes: made while bytes go by, read strictly and with limits, asked for the chunks of a range."""

import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_oras.errors import UnacceptableError
from csi_oras.oci import chunk_index, media_types
from csi_oras.oci.chunk_index import CHUNK_BYTES, MOST_CHUNKS, BlobIndex, ChunkHasher, ChunkIndex, chunk_bytes, indexed
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest, parse
from tests.support.corpus import Row, load, spelled

SUBJECT = "index of reg.example/t/x:v1"
MIB = 1 << 20
CONTENT = bytes(range(256)) * (3 * MIB // 256) + b"the end"


def index_of(content: bytes) -> BlobIndex:
    hasher = ChunkHasher(len(content))
    hasher.update(content)
    found = hasher.index(Digest.of(content))
    assert found is not None
    return found


def claimed(size: int, name: bytes = b"") -> BlobIndex:
    """The index of a blob that nobody has."""
    chunks = -(-size // chunk_bytes(size))
    return BlobIndex(digest=Digest.of(name), size=size, digests=bytes(32 * chunks))


def whole(*blobs: BlobIndex) -> ChunkIndex:
    found = ChunkIndex.of(blobs)
    assert found is not None
    return found


# -- the size of chunks


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (0, MIB),
        (1, MIB),
        (MIB * MOST_CHUNKS, MIB),
        (MIB * MOST_CHUNKS + 1, 2 * MIB),
        (2 * MIB * MOST_CHUNKS, 2 * MIB),
        (1 << 40, 16 * MIB),
    ],
)
def test_chunks_are_as_large_as_their_number_demands(size: int, chunk: int) -> None:
    assert chunk_bytes(size) == chunk


# -- making one


@settings(deadline=None)  # chunks of megabytes
@given(st.lists(st.integers(1, 2 * MIB), max_size=12))
def test_hasher_yields_the_same_however_the_bytes_come(lengths: list[int]) -> None:
    hasher, at = ChunkHasher(len(CONTENT)), 0
    for length in lengths:
        hasher.update(memoryview(CONTENT)[at : at + length])
        at += length
    hasher.update(CONTENT[at:])
    found = hasher.index(Digest.of(CONTENT))
    assert found is not None
    pieces = [CONTENT[start : start + MIB] for start in range(0, len(CONTENT), MIB)]
    assert found.digests == b"".join(hashlib.sha256(piece).digest() for piece in pieces)


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 2 * MIB + 1])
def test_hasher_ends_with_the_last_byte(size: int) -> None:
    found = index_of(bytes(size))
    assert found.count == -(-size // MIB)
    assert [chunk.end for chunk in found.chunks(0, size)][-1] == size


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_blob_of_one_chunk_has_no_index(size: int) -> None:
    hasher = ChunkHasher(size)
    hasher.update(bytes(size))
    assert hasher.index(Digest.of(bytes(size))) is None


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_hasher_of_another_size_than_was_said_has_no_index(size: int) -> None:
    hasher = ChunkHasher(size)
    hasher.update(CONTENT)
    assert hasher.index(Digest.of(CONTENT)) is None


def test_index_with_chunks_of_another_size_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not those"):
        replace(claimed(3 * MIB), size=2 * MIB)


# -- asking it


@given(st.integers(-2, len(CONTENT) + 2), st.integers(-2, len(CONTENT) + 2))
def test_chunks_of_a_range_cover_it_and_no_more(start: int, end: int) -> None:
    found = list(index_of(CONTENT).chunks(start, end))
    first, last = max(start, 0), min(end, len(CONTENT))
    if first >= last:
        assert found == []
        return
    assert found[0].start <= first < found[0].end
    assert found[-1].start < last <= found[-1].end
    assert all(one.end == other.start for one, other in itertools.pairwise(found))


def test_chunk_matches_its_bytes_alone() -> None:
    first, *_, last = index_of(CONTENT).chunks(0, len(CONTENT))
    assert first.matches(CONTENT[:MIB])
    assert last.matches(memoryview(CONTENT)[last.start : last.end])
    assert not first.matches(b"x" + CONTENT[1:MIB])
    assert not first.matches(CONTENT[: MIB - 1])


def test_only_blobs_of_several_chunks_are_indexed_and_each_once() -> None:
    def blob(size: int) -> Descriptor:
        return Descriptor(media_type="a/b", digest=Digest.of(b"%d" % size), size=size)

    assert indexed([blob(0), blob(MIB), blob(MIB + 1), blob(MIB + 1)]) == (blob(MIB + 1),)


def test_index_that_says_another_size_is_none_of_the_blob() -> None:
    index = whole(index_of(CONTENT))
    blob = Descriptor.of(CONTENT, "a/b")
    assert index.find(blob) == index_of(CONTENT)
    assert index.find(replace(blob, size=blob.size + 1)) is None
    assert index.find(Descriptor.of(b"other", "a/b")) is None


# -- the document


def test_document_says_what_the_contract_says() -> None:
    index = whole(index_of(CONTENT))
    (blob,) = json.loads(index.content)["blobs"]
    assert set(blob) == {"digest", "size", "chunkSize", "chunks"}
    assert (blob["digest"], blob["size"], blob["chunkSize"]) == (str(Digest.of(CONTENT)), len(CONTENT), MIB)
    assert index.descriptor == Descriptor.of(index.content, "application/vnd.land.oras.csi.chunk-index.v1+json")
    assert index.chunks == 4


SIZES = st.lists(st.integers(CHUNK_BYTES + 1, 40 * CHUNK_BYTES), min_size=1, max_size=6)


@given(SIZES)
def test_document_is_read_as_it_was_written_and_within_its_limit(sizes: list[int]) -> None:
    blobs = [claimed(size, b"%d" % number) for number, size in enumerate(sizes)]
    index = whole(*blobs)
    assert ChunkIndex.parse(index.content, SUBJECT) == index
    descriptors = [Descriptor(media_type="a/b", digest=blob.digest, size=blob.size) for blob in blobs]
    assert len(index.content) <= ChunkIndex.most_bytes(descriptors)


def test_largest_blob_of_all_is_read() -> None:
    index = whole(claimed(2**53))
    assert ChunkIndex.parse(index.content, SUBJECT).chunks == MOST_CHUNKS


def test_index_of_nothing_is_none() -> None:
    assert ChunkIndex.of([None, None]) is None


def test_index_of_more_than_a_document_holds_covers_the_first_blobs() -> None:
    size = CHUNK_BYTES * MOST_CHUNKS
    index = whole(*(claimed(size, b"%d" % number) for number in range(30)))
    assert 20 <= len(index.blobs) < 30
    assert ChunkIndex.parse(index.content, SUBJECT) == index
    blobs = [Descriptor(media_type="a/b", digest=Digest.of(b"%d" % number), size=size) for number in range(30)]
    assert ChunkIndex.most_bytes(blobs) == chunk_index.LARGEST_INDEX


def test_index_of_many_blobs_is_one_that_is_read() -> None:
    index = whole(*(claimed(CHUNK_BYTES + 1, b"%d" % number) for number in range(chunk_index.MOST_BLOBS + 1)))
    assert len(ChunkIndex.parse(index.content, SUBJECT).blobs) == chunk_index.MOST_BLOBS


def test_members_that_nobody_knows_are_passed_over() -> None:
    document = {"comment": [], "blobs": [{**claimed(3 * MIB).to_json(), "more": {"a": 1}}]}
    assert ChunkIndex.parse(json.dumps(document).encode(), SUBJECT) == whole(claimed(3 * MIB))


def _content(shape: dict[str, Any]) -> bytes:
    shape = spelled(shape, {})
    if "content" in shape:
        return str(shape["content"]).encode()
    honest = index_of(CONTENT).to_json()
    return json.dumps({"blobs": [{**honest, **changes} for changes in shape["blobs"]]}).encode()


@pytest.mark.parametrize("row", load("chunk_indexes.json"), ids=str)
def test_hostile_index_is_refused_with_its_rule(row: Row) -> None:
    with pytest.raises(UnacceptableError) as refusal:
        ChunkIndex.parse(_content(row.shape), SUBJECT)
    assert row.expected.rule in refusal.value.message
    assert refusal.value.message.startswith(SUBJECT)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["blobs", "digest", "size", "chunks"]), inner),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_an_index_or_is_refused(content: bytes) -> None:
    try:
        index = ChunkIndex.parse(content, SUBJECT)
    except UnacceptableError:
        return
    assert index.blobs == {}


# -- the annotation


@pytest.mark.parametrize(
    ("annotations", "is_read"),
    [
        ({media_types.CHUNK_INDEX_DIGEST: str(Digest.of(b"x"))}, True),
        ({media_types.CHUNK_INDEX_DIGEST: str(Digest.of(b"x")), "other": 5}, True),
        ({media_types.CHUNK_INDEX_DIGEST: "sha256:../../x"}, False),
        ({media_types.CHUNK_INDEX_DIGEST: 5}, False),
        ({}, False),
        (None, False),
        (5, False),
    ],
)
def test_annotation_that_is_wrong_is_none(annotations: object, is_read: bool) -> None:  # noqa: FBT001 (pytest's call)
    empty = Descriptor.of(b"{}", media_types.EMPTY).to_json()
    document = {"schemaVersion": 2, "config": empty, "layers": [], "annotations": annotations}
    manifest = parse(json.dumps(document).encode(), "", SUBJECT, most_layers=1)
    assert isinstance(manifest, Manifest)
    assert manifest.chunk_index == (Digest.of(b"x") if is_read else None)
