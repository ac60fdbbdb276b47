"""Proofs: chunks of a blob, held against an index before anybody sees them."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from csi_oras.errors import DigestMismatchError
from csi_oras.lazy.unproven import Rejection
from csi_oras.oci.chunk_index import BlobIndex, Chunk
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.extents import Extents
from csi_oras.store.ingest import Ingest
from csi_oras.transfer.ranges import EndedError, RangedFetch


class Proof(StrEnum):
    """What happens to a chunk that is held against an index, and to a blob when it is whole."""

    VERIFIED = "verified"
    REJECTED = "rejected"
    WHOLE = "whole"
    REPLACED = "replaced"
    POISONED = "poisoned"


class BeliedError(EndedError):
    """A registry says twice what a hint does not: which of the two lies, only the whole can tell."""


class ChunkProofs:
    """What has been proven of one blob by an index, which may be but a hint."""

    def __init__(
        self,
        blob: Descriptor,
        index: BlobIndex,
        observe: Callable[[Descriptor, Proof], None],
        reject: Callable[[Descriptor, Rejection], None],
        *,
        is_hint: bool = False,
    ) -> None:
        """Tell `observe` what came of each proof, and `reject` which bytes were wrong."""
        self.is_hint = is_hint
        self.chunk_bytes = index.chunk_bytes
        self._blob = blob
        self._index = index
        self._observe = observe
        self._reject = reject
        self._changed = threading.Condition()
        self._proving: set[int] = set()
        """Where chunks begin that somebody proves."""
        self._proven = Extents()
        self._inode = 0
        """The file of which `_proven` speaks."""

    @property
    def is_complete(self) -> bool:
        """Whether all of the blob has been proven."""
        with self._changed:
            return self._proven.covers(0, self._blob.size)

    def prove(
        self, client: RepositoryClient, ingest: Ingest, ranged: RangedFetch, start: int, end: int
    ) -> tuple[int, int]:
        """Prove the chunks from `start` up to `end`, and return from where and up to where all is proven around them.

        Raises:
            DigestMismatchError: the registry has other bytes.
            BeliedError: it has other bytes than a hint says.
            EndedError, UnobtainableError: as for `RangedFetch.cover`.
        """
        self._forget_other_file(ingest)
        for chunk in self._index.chunks(start, end):
            with self._in_proof(chunk) as is_proven:
                if not is_proven:
                    self._prove(client, ingest, ranged, chunk)
        with self._changed:
            return self._proven.around(start)

    def _forget_other_file(self, ingest: Ingest) -> None:
        inode = os.fstat(ingest.descriptor).st_ino
        with self._changed:
            if inode != self._inode:
                self._proven, self._inode = Extents(), inode

    @contextmanager
    def _in_proof(self, chunk: Chunk) -> Iterator[bool]:
        """Let only one at a time prove a chunk; say whether it is proven already."""
        with self._changed:
            self._changed.wait_for(lambda: chunk.start not in self._proving)
            is_proven = self._proven.covers(chunk.start, chunk.end)
            self._proving.add(chunk.start)
        try:
            yield is_proven
        finally:
            with self._changed:
                self._proving.discard(chunk.start)
                self._changed.notify_all()

    def _prove(self, client: RepositoryClient, ingest: Ingest, ranged: RangedFetch, chunk: Chunk) -> None:
        """Hold a chunk against the index, twice where it is wrong: what a crash has left may be, or a mirror's."""
        for is_last in (False, True):
            with ingest.view(chunk.start, chunk.end) as view:
                is_right = chunk.matches(view)
                sha256 = b"" if is_right else hashlib.sha256(view).digest()
            self._observe(self._blob, Proof.VERIFIED if is_right else Proof.REJECTED)
            if is_right:
                with self._changed:
                    self._proven.add(chunk.start, chunk.end)
                return
            if is_last and self.is_hint:
                raise BeliedError
            ranged.reject(chunk.start, chunk.end)
            inode = os.fstat(ingest.descriptor).st_ino
            self._reject(self._blob, Rejection(inode, chunk.start, chunk.end, sha256))
            if is_last:
                cause = f"bytes {chunk.start} to {chunk.end} are not those of the chunk index"
                raise DigestMismatchError(f"blob {self._blob.digest}", cause, "they are asked for again")
            client.doubt_mirrors()
            ranged.cover(chunk.start, chunk.end, client)
