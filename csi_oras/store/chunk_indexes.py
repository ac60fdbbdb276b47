"""The node's own chunk indexes: of blobs that were read whole here, and whose digest fitted.

One is true of its blob for ever, so it outlives the blob: when that comes again, each chunk of it can be proven. It is
kept as long as there is room for all of them, the least recently used goes first. What a file holds is proven when it
is read, since a power cut may tear it and a disk may rot: one that is wrong would have good bytes refused.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from csi_oras.errors import UnacceptableError
from csi_oras.oci.chunk_index import BlobIndex, ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.staging import staging

MOST_BYTES = 64 << 20
_DIGITS = 64
_BLOCK = 512


class OwnIndexes:
    """Chunk indexes by their blobs."""

    def __init__(self, paths: StatePaths, most_bytes: int = MOST_BYTES) -> None:
        """Keep them below `paths`, so many bytes of the file system at most."""
        self._paths = paths
        self._most_bytes = most_bytes

    def find(self, blob: Descriptor) -> BlobIndex | None:
        """Return the index of a blob, which counts as used now; one that cannot be read is none."""
        path = self._path(blob)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        seal, body = content[:_DIGITS], content[_DIGITS:]
        try:
            found = ChunkIndex.parse(body, f"chunk index {path.name}").find(blob)
        except UnacceptableError:
            found = None
        if found is None or hashlib.sha256(body).hexdigest().encode() != seal:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def add(self, index: BlobIndex) -> None:
        """Keep the index of a blob that has just been proven whole.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        path = self._path(index)
        whole = ChunkIndex.of([index])
        if whole is None or path.exists():
            return
        with store_errors(f"chunk index {path.name}"), staging(self._paths) as directory:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = directory / path.name
            made.write_bytes(hashlib.sha256(whole.content).hexdigest().encode() + whole.content)
            made.rename(path)

    def trim(self) -> None:
        """Let go of the least recently used beyond what is kept.

        Raises:
            StoreBrokenError: the store fails.
        """
        with store_errors("chunk indexes"):
            found = [(path, path.lstat()) for path in self._paths.indexes.glob("*/*")]
            found.sort(key=lambda item: item[1].st_mtime, reverse=True)
            taken = 0
            for path, status in found:
                taken += status.st_blocks * _BLOCK
                if taken > self._most_bytes:
                    path.unlink(missing_ok=True)

    def _path(self, blob: Descriptor | BlobIndex) -> Path:
        return self._paths.indexes / blob.digest.algorithm / blob.digest.encoded
