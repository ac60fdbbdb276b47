"""Chunk indexes: the digests of the pieces of large blobs, so that a piece can be proven without the rest.

A blob's size alone says how large its chunks are, so that whoever makes an index of the same blobs makes the same one,
and two artifacts' equal blobs have equal chunks. Whether an index is to be believed is not known here: it is as good as
the way by which it was found.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from csi_oras.errors import CsiOrasError, HostileContentError, LimitExceededError
from csi_oras.oci import document as documents
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest

CHUNK_BYTES = 1 << 20
"""The smallest chunk; a blob that is not larger has no entry, for its own digest says as much."""
MOST_CHUNKS = 1 << 16
MOST_BLOBS, LARGEST_INDEX = 1 << 14, 64 << 20
"""Entries and bytes of a document."""
_DIGEST_BYTES = 32
_ENTRY_BYTES = 512
"""What an entry has at most beside its chunks."""
_MOST_COMMAS = 8 * MOST_BLOBS
"""Twice what it takes. Items of JSON that are not nested are parted by commas: so many can be parsed, however small."""


def chunk_bytes(size: int) -> int:
    """Return how large the chunks of a blob of `size` bytes are."""
    chunk = CHUNK_BYTES
    while size > chunk * MOST_CHUNKS:
        chunk *= 2
    return chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The bytes of a blob from `start` up to `end` (not included), and the SHA-256 that they must have."""

    start: int
    end: int
    sha256: bytes

    def matches(self, content: bytes | bytearray | memoryview) -> bool:
        """Say whether `content` is this chunk."""
        return len(content) == self.end - self.start and hashlib.sha256(content).digest() == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobIndex:
    """The chunks of one blob; `digests` are their SHA-256, one after the other."""

    digest: Digest
    size: int
    digests: bytes

    def __post_init__(self) -> None:
        """Let only an index pass that covers all of a blob.

        Raises:
            ValueError: there are more or fewer chunks than the blob has.
        """
        if len(self.digests) != _DIGEST_BYTES * self.count:
            raise ValueError("chunks that are not those of the blob's size")

    @property
    def chunk_bytes(self) -> int:
        """How large a chunk is, save the last."""
        return chunk_bytes(self.size)

    @property
    def count(self) -> int:
        """The number of chunks."""
        return -(-self.size // self.chunk_bytes)

    def chunks(self, start: int, end: int) -> Iterator[Chunk]:
        """Yield the chunks that the bytes from `start` up to `end` lie in, as far as there are any, in order."""
        length = self.chunk_bytes
        for number in range(max(start, 0) // length, min(-(-end // length), self.count) if end > start else 0):
            at = number * _DIGEST_BYTES
            yield Chunk(
                start=number * length,
                end=min((number + 1) * length, self.size),
                sha256=self.digests[at : at + _DIGEST_BYTES],
            )

    @staticmethod
    def most_bytes(size: int) -> int:
        """Return what the entry of a blob of `size` bytes takes of a document at most."""
        chunks = -(-size // chunk_bytes(size))
        return _ENTRY_BYTES + 4 * -(-chunks * _DIGEST_BYTES // 3)

    def is_of(self, blob: Descriptor) -> bool:
        """Say whether this is said of `blob`."""
        return (self.digest, self.size) == (blob.digest, blob.size)

    def to_json(self) -> dict[str, Any]:
        """Return the members that an index holds."""
        return {
            "digest": str(self.digest),
            "size": self.size,
            "chunkSize": self.chunk_bytes,
            "chunks": base64.b64encode(self.digests).decode(),
        }

    @classmethod
    def parse(cls, document: dict[str, Any], subject: str) -> Self:
        """Read the entry of one blob; `subject` says which one, in errors.

        Raises:
            HostileContentError: a member is missing or not of its type, or they contradict each other.
            UnsupportedContentError: a digest of an algorithm that we do not take.
        """
        try:
            digest = Digest.parse(document.get("digest"))
        except CsiOrasError as error:
            raise type(error)(subject, f"{error.subject} {error.cause}", error.remedy) from None
        size = documents.integer(document, "size", subject)
        if size <= CHUNK_BYTES:
            raise HostileContentError(subject, f"has {size} bytes, which are not more than one chunk")
        if documents.integer(document, "chunkSize", subject) != chunk_bytes(size):
            raise HostileContentError(subject, f'"chunkSize" is not {chunk_bytes(size)}, as of {size} bytes')
        try:
            digests = base64.b64decode(documents.text(document, "chunks", subject), validate=True)
            return cls(digest=digest, size=size, digests=digests)
        except (binascii.Error, ValueError):
            raise HostileContentError(subject, f'"chunks" are not those of {size} bytes') from None


@dataclass(frozen=True, kw_only=True)
class ChunkIndex:
    """The chunks of some blobs of an artifact."""

    blobs: Mapping[Digest, BlobIndex]

    @classmethod
    def of(cls, blobs: Iterable[BlobIndex | None]) -> Self | None:
        """Return the index of what there is of `blobs`, as far as one document holds it; None where that is nothing."""
        taken: dict[Digest, BlobIndex] = {}
        left = LARGEST_INDEX - _ENTRY_BYTES
        for blob in blobs:
            if blob is None or blob.digest in taken:
                continue
            left -= BlobIndex.most_bytes(blob.size)
            if left < 0 or len(taken) == MOST_BLOBS:
                break
            taken[blob.digest] = blob
        return cls(blobs=MappingProxyType(taken)) if taken else None

    @staticmethod
    def most_bytes(blobs: Iterable[Descriptor]) -> int:
        """Return what a document about `blobs` has at most."""
        return min(_ENTRY_BYTES + sum(BlobIndex.most_bytes(blob.size) for blob in indexed(blobs)), LARGEST_INDEX)

    @classmethod
    def parse(cls, content: bytes, subject: str) -> Self:
        """Read an index.

        Raises:
            BadResponseError: no JSON.
            HostileContentError: a malformed document, or one that contradicts itself.
            UnsupportedContentError: a digest of an algorithm that we do not take.
            LimitExceededError: it is larger than any may be.
        """
        if len(content) > LARGEST_INDEX or content.count(b",") > _MOST_COMMAS:
            raise LimitExceededError(subject, f"is larger than {LARGEST_INDEX} bytes, or {MOST_BLOBS} blobs")
        blobs: dict[Digest, BlobIndex] = {}
        for number, item in enumerate(documents.objects(documents.parse_object(content, subject), "blobs", subject)):
            blob = BlobIndex.parse(item, f"{subject}, blob {number}")
            if blob.digest in blobs:
                raise HostileContentError(f"{subject}, blob {number}", "is there twice")
            blobs[blob.digest] = blob
        return cls(blobs=MappingProxyType(blobs))

    @cached_property
    def content(self) -> bytes:
        """The bytes of the document; the same of the same blobs in the same order."""
        document = {"blobs": [blob.to_json() for blob in self.blobs.values()]}
        return json.dumps(document, separators=(",", ":")).encode()

    @property
    def descriptor(self) -> Descriptor:
        """Describe the document."""
        return Descriptor.of(self.content, media_types.CHUNK_INDEX)

    @property
    def chunks(self) -> int:
        """The number of chunks of all blobs."""
        return sum(blob.count for blob in self.blobs.values())

    def find(self, blob: Descriptor) -> BlobIndex | None:
        """Return what is said of a blob, if that agrees with its size."""
        found = self.blobs.get(blob.digest)
        return found if found and found.is_of(blob) else None


def indexed(blobs: Iterable[Descriptor]) -> Sequence[Descriptor]:
    """Return each of `blobs` once that an index has an entry for."""
    return tuple({blob.digest: blob for blob in blobs if blob.size > CHUNK_BYTES}.values())


class ChunkHasher:
    """Hashes the chunks of a blob of a known size, whose bytes come in order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._chunk_bytes = self._wanted = chunk_bytes(size)
        self._hasher = hashlib.sha256()
        self._digests = bytearray()
        self._taken = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            piece = view[: self._wanted]
            self._hasher.update(piece)
            self._taken += len(piece)
            self._wanted -= len(piece)
            if not self._wanted:
                self._end_chunk()
            view = view[len(piece) :]

    def _end_chunk(self) -> None:
        self._digests += self._hasher.digest()
        self._hasher, self._wanted = hashlib.sha256(), self._chunk_bytes

    def index(self, digest: Digest) -> BlobIndex | None:
        """Return the index of the blob, which has this digest; None where it needs none, or has another size."""
        if self._taken != self._size or self._size <= CHUNK_BYTES:
            return None
        rest = self._hasher.digest() if self._wanted < self._chunk_bytes else b""
        return BlobIndex(digest=digest, size=self._size, digests=bytes(self._digests) + rest)
