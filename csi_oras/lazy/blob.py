"""Lazy blobs: what is read of a blob is fetched first, and shown when it is proven as far as it can be.

With a chunk index, each chunk is held against its digest before anybody sees it. Without one, bytes are shown as they
came, and the digest of the whole decides when all of it is here: is it wrong, every later read fails. A whole blob of
the store is shown only to who was seen to read it in his own repository, as ever; one that comes with another's
credential, only to who was seen to read some of it with his own.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from csi_oras.errors import CsiOrasError, DigestMismatchError, RegistryUnavailableError, UnwantedError
from csi_oras.lazy.patience import Patience
from csi_oras.lazy.proofs import BeliedError, ChunkProofs, Proof
from csi_oras.lazy.sources import Sources
from csi_oras.lazy.unproven import Rejection, Unproven, Verdict
from csi_oras.oci.chunk_index import CHUNK_BYTES, BlobIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grants
from csi_oras.store.ingest import Ingest
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.blob_job import BlobJob
from csi_oras.transfer.blobs import BlobFetcher
from csi_oras.transfer.ranges import EndedError, RangedFetch

_LOOK_SECONDS, _PAUSE_SECONDS = 0.2, 1.0
_AHEAD_BYTES, _AHEAD_SECONDS = 4 << 20, 10.0
"""How often a reader hears how far his read-ahead has come, and what may take longer is his to ask for."""


class Shown(NamedTuple):
    """Bytes of a file that may be read from now on and never change: from `start` up to `end`.

    `descriptor` is open for reading where the file, known by its `inode`, is not the one that the reader has.
    """

    start: int
    end: int
    inode: int
    descriptor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What lazy blobs work with.

    `make_room` raises where there is none, `observe` hears what came of proofs, `reject` of which bytes were wrong.
    """

    content: ContentStore
    grants: Grants
    fetcher: BlobFetcher
    make_room: Callable[[Asker, Descriptor], None]
    observe: Callable[[Descriptor, Proof], None]
    reject: Callable[[Descriptor, Rejection], None] = lambda _blob, _rejection: None


class LazyBlob:
    """One blob of a lazy volume."""

    def __init__(
        self,
        blob: Descriptor,
        parts: Parts,
        *,
        index: BlobIndex | None = None,
        remember: Callable[[str], None] = lambda _path: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prove chunks by `index`; `remember` keeps the paths of what is shown without."""
        self.blob = blob
        self._parts = parts
        self._sources = Sources(blob, parts.fetcher, self._condemn)
        self._proofs = ChunkProofs(blob, index, parts.observe, parts.reject) if index else None
        self._clock = clock
        self._lock = threading.Lock()
        self._only_whole = False
        self._whole_inode = 0
        """The file of the store that was shown."""
        self.unproven = Unproven(remember)
        self._settling = threading.Lock()
        self._begun: Future[bool] | None = None
        self.poison: CsiOrasError | None = None
        """Why nothing of it is shown any more."""

    def show(
        self, asker: Asker, start: int, end: int, have: int, *, still_coming: Callable[[], None] = lambda: None
    ) -> Shown:
        """Return when the bytes from `start` up to `end` are here; the reader has the file with inode `have`, if any.

        Where all of the blob has to come first, that is waited for while it does; `still_coming` is called then.

        Raises:
            UnobtainableError: they cannot be got now.
            UnacceptableError: they are not what they should be.
            NoSpaceError, StoreBrokenError: the store cannot take them.
        """
        patience = Patience(self._clock, still_coming)
        cause = f"bytes {start} to {end} did not come in time"
        late = RegistryUnavailableError(f"blob {self.blob.digest}", cause, "it is tried again")
        while not patience.is_over:
            if self.poison:
                raise self.poison
            try:
                if shown := self._attempt(asker, (start, end), have, patience):
                    return shown
            except RegistryUnavailableError as error:  # it may be back before whoever reads gives up
                late = error
                time.sleep(_PAUSE_SECONDS)
        raise late

    def _attempt(self, asker: Asker, wanted: tuple[int, int], have: int, patience: Patience) -> Shown | None:
        if self._parts.content.has(self.blob):
            self.settle()
            return None if self.poison else self._whole(asker, have)
        with self._parts.fetcher.urgent(asker.repository.registry):
            job, done = self._fetch(asker)
            shown = self._part(asker, self._opened(asker, job, done, patience), wanted, have)
        if shown is None and wait([done], _LOOK_SECONDS).done:  # all of it, which nothing holds back now
            done.result()
        return shown

    def advance(self, asker: Asker, start: int, end: int) -> Iterator[Shown]:
        """Fetch the bytes from `start` up to `end` before whatever nobody waits for; yield what can be shown by then.

        Raises:
            CsiOrasError: as for `show`, where somebody will hear of it who waits.
        """
        if self.poison or self._parts.content.has(self.blob):
            return
        job, _ = self._fetch(asker)
        ranged = self._sources.find(asker, job).wait_opened(_LOOK_SECONDS)
        if ranged is None or self._only_whole:
            return
        ranged.advance(start, end)
        with suppress(EndedError), ranged.using() as ingest:
            for place in range(start - start % self._chunk_bytes, end, _AHEAD_BYTES):
                until = min(place + _AHEAD_BYTES, self.blob.size)
                ranged.wait_covered(place, until, _AHEAD_SECONDS)
                shown = self._cover(asker, ingest, ranged, place, until)
                yield Shown(*shown, os.fstat(ingest.descriptor).st_ino, None)

    def _whole(self, asker: Asker, have: int) -> Shown:
        grants, blob = self._parts.grants, self.blob
        if not grants.allow(asker.repository, blob.digest, asker.holder):
            in_full = not grants.served_by(asker.repository.registry, blob.digest)
            self._parts.fetcher.prove(asker, blob, in_full=in_full).result()
            grants.add([asker.grant(blob.digest)])
        with self._parts.content.open(blob.digest) as file:
            self._whole_inode = os.fstat(file.fileno()).st_ino
            return _shown(file.fileno(), 0, blob.size, have)

    @property
    def has_gone(self) -> bool:
        """Whether the store had the whole blob, and has it no more, or in another file: it has rotted."""
        return self._whole_inode not in (0, self._stored())

    def _stored(self) -> int:
        with suppress(FileNotFoundError):
            return self._parts.content.path(self.blob.digest).stat().st_ino
        return 0

    def _fetch(self, asker: Asker) -> tuple[BlobJob, Future[bool]]:
        if self._begun is None or self._begun.done():
            self._parts.make_room(asker, self.blob)
        job, done = self._parts.fetcher.read(asker, self.blob)
        with self._lock:
            is_new, self._begun = done is not self._begun, done
        if is_new:
            done.add_done_callback(self._ended)
        return job, done

    def hint(self, index: BlobIndex) -> None:
        """Prove chunks by what is nobody's word, where there is nothing better, until a registry contradicts it."""
        if self._proofs is None:
            self._proofs = ChunkProofs(self.blob, index, self._parts.observe, self._parts.reject, is_hint=True)

    @property
    def is_unproven(self) -> bool:
        """Whether only the whole can prove it, and has not yet, or an index that is but a hint."""
        return self.blob.size > CHUNK_BYTES and (self._proofs is None or self._proofs.is_hint)

    def _ended(self, done: Future[bool]) -> None:
        if done.exception() is None:
            self._parts.observe(self.blob, Proof.WHOLE)
        self._condemn(done)

    def _condemn(self, done: Future[bool]) -> None:
        """Show nothing more of what was wrong when it was whole, unless all that was shown had been proven."""
        error = done.exception()
        if error is None:
            self._whole_inode = self._stored()
            self.settle()
        elif isinstance(error, DigestMismatchError) and not self._has_proof:
            self._poison(error)

    def settle(self) -> None:
        """Hold what was shown without a proof against the blob, where that is whole by now."""
        with self._settling:
            if not self.unproven or not self._parts.content.has(self.blob):
                return
            with self._parts.content.open(self.blob.digest) as file:
                verdict = self.unproven.settle(file.fileno())
        if verdict is Verdict.REPLACED:
            self._parts.observe(self.blob, Proof.REPLACED)
        elif verdict is Verdict.WRONG:
            cause = "was shown with other bytes than it has, before it was whole"
            self._poison(DigestMismatchError(f"blob {self.blob.digest}", cause, "publish the volume anew"))

    def _poison(self, error: CsiOrasError) -> None:
        self.poison = error
        self._parts.observe(self.blob, Proof.POISONED)

    @property
    def _has_proof(self) -> bool:
        """Whether nothing was shown but by an index that is to be believed, and that does not belie the digest."""
        proofs = self._proofs
        return proofs is not None and not (proofs.is_hint or proofs.is_complete or self.unproven)

    def _opened(self, asker: Asker, job: BlobJob, done: Future[bool], patience: Patience) -> RangedFetch | None:
        """Return what can be read before it is whole, None where nothing can, or not in time, or the job has ended."""
        while not done.done() and not patience.is_over:
            source = self._sources.find(asker, job)
            ranged = source.wait_opened(0 if source.comes_whole else _LOOK_SECONDS)
            if source.comes_whole or (ranged and self._only_whole):
                patience.renew(source.counter.done)
                return None
            if ranged:
                return ranged
        return None

    def _part(self, asker: Asker, ranged: RangedFetch | None, wanted: tuple[int, int], have: int) -> Shown | None:
        """Return what can be shown before the blob is whole, or None where nothing can."""
        with suppress(EndedError, UnwantedError):  # by whoever lends it
            if ranged and not self._only_whole:
                with ranged.using() as ingest:
                    first, last = self._cover(asker, ingest, ranged, *wanted)
                    return _shown(ingest.descriptor, first, last, have)
        return None

    def _cover(self, asker: Asker, ingest: Ingest, ranged: RangedFetch, start: int, end: int) -> tuple[int, int]:
        """Fetch and prove some bytes, and return from where and up to where all is."""
        proofs, size = self._proofs, self._chunk_bytes
        first, last = start - start % size, min(end + -end % size, self.blob.size)
        if proofs is None and 0 < ingest.resumed < _booted():
            self._only_whole = True  # power may have been cut before bytes were written that are noted as there
            raise EndedError
        ranged.cover(first, last, asker.client)
        try:
            if proofs:
                return proofs.prove(asker.client, ingest, ranged, first, last)
            return self.unproven.note(ingest, first)
        except BeliedError:
            self._only_whole = True
            raise

    @property
    def _chunk_bytes(self) -> int:
        return self._proofs.chunk_bytes if self._proofs else CHUNK_BYTES


def _booted() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _shown(descriptor: int, start: int, end: int, have: int) -> Shown:
    inode = os.fstat(descriptor).st_ino
    if inode == have:
        return Shown(start, end, inode, None)
    return Shown(start, end, inode, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC))
