"""Hashing: the digest of a blob and those of its chunks, of bytes that are read once.

The chunks are hashed beside the whole, on another processor where there is one.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from csi_oras.oci.chunk_index import CHUNK_BYTES, BlobIndex, ChunkHasher
from csi_oras.oci.digest import Digest
from csi_oras.telemetry.progress import Counter

_BLOCK_BYTES = 4 << 20
_SHA256 = Digest.of(b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashed:
    """What a blob is, and its chunks if there are several."""

    digest: Digest
    size: int
    chunks: BlobIndex | None


class _File(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def hash_blob(file: _File, size: int, like: Digest = _SHA256, counter: Counter | None = None) -> Hashed:
    """Read `file`, which should have `size` bytes, to its end, and hash it by the algorithm of another digest.

    Raises:
        OSError: it cannot be read.
    """
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, size + 1)))
    whole, chunks, done = like.hasher(), ChunkHasher(size) if size > CHUNK_BYTES else None, 0
    with ThreadPoolExecutor(1, "chunks") as beside:
        while count := file.readinto(buffer):
            also = beside.submit(chunks.update, buffer[:count]) if chunks else None
            whole.update(buffer[:count])
            if also:
                also.result()
            done += count
            if counter:
                counter.advance(count)
    digest = Digest(like.algorithm, whole.hexdigest())
    return Hashed(digest=digest, size=done, chunks=chunks.index(digest) if chunks else None)
