"""Indexing: the chunk index of an artifact that came without one, from its blobs in the store."""

from collections.abc import Sequence

from csi_oras.oci.chunk_index import BlobIndex, ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.store.chunk_indexes import OwnIndexes
from csi_oras.store.content import ContentStore
from csi_oras.store.paths import store_errors
from csi_oras.telemetry.progress import Counter, Progress
from csi_oras.transfer.hashing import hash_blob


class Indexer:
    """Makes chunk indexes; what it has made once of a blob, the node keeps as its own."""

    def __init__(self, content: ContentStore, own: OwnIndexes) -> None:
        self._content = content
        self._own = own

    def lacks(self, blobs: Sequence[Descriptor]) -> bool:
        """Say whether some of `blobs` would have to be read."""
        return any(self._own.find(blob) is None for blob in blobs)

    def keep(self, blob: Descriptor) -> None:
        """Make the index of a blob that has come whole, for when it comes again.

        Raises:
            StoreBrokenError: it has rotted, or the store fails.
            NoSpaceError: the disk is full.
        """
        if self._own.find(blob) is None:
            self._made(blob, Counter(blob.size))

    def make(self, blobs: Sequence[Descriptor], progress: Progress) -> ChunkIndex | None:
        """Return the index of `blobs`, of which those that have to be read are in the store.

        Raises:
            StoreBrokenError: one has rotted, or the store fails.
            NoSpaceError: the disk is full.
        """
        counters = {blob.digest: Counter(blob.size) for blob in blobs}
        for blob in blobs:
            progress.join(blob.digest, counters[blob.digest], blob.digest.short)
        return ChunkIndex.of([self._own.find(blob) or self._made(blob, counters[blob.digest]) for blob in blobs])

    def _made(self, blob: Descriptor, counter: Counter) -> BlobIndex | None:
        path = self._content.path(blob.digest)
        with store_errors(f"blob {blob.digest}"), path.open("rb", buffering=0) as file:
            hashed = hash_blob(file, blob.size, blob.digest, counter)
        if hashed.digest != blob.digest:
            self._content.check(blob)
        elif hashed.chunks:
            self._own.add(hashed.chunks)
        return hashed.chunks if hashed.digest == blob.digest else None
