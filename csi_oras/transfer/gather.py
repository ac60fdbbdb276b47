"""Gathering: every blob of a plan into the store, each fetched or proven with the asker's own credential."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

from csi_oras.errors import CsiOrasError, NoSpaceError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.store.collection import Collector
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grants
from csi_oras.store.leases import PullLease
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Counter, Progress, human_size
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.blobs import BlobFetcher

_MARGIN_FILES = 64
"""What it keeps for directories, and for the files of SQLite."""

_COLLECTIONS = 2
"""How often room is made for a pull: others may be quicker to take it."""
_Reservation = tuple[str, Sequence[Descriptor]]


class _Lacking(NamedTuple):
    size: int
    files: int
    error: NoSpaceError


class Gatherer:
    """Brings blobs together."""

    def __init__(
        self, content: ContentStore, grants: Grants, collector: Collector, blobs: BlobFetcher, metrics: Metrics
    ) -> None:
        self._content = content
        self._grants = grants
        self._collector = collector
        self._blobs = blobs
        self._metrics = metrics
        self._lock = threading.Lock()
        self._reservations: list[_Reservation] = []

    def gather(self, asker: Asker, plan: Plan, lease: PullLease, progress: Progress, subject: str) -> None:
        """Return when every blob of `plan` is in the store, kept by `lease`, and `asker` was seen to read it.

        Raises:
            NoSpaceError: there is no room for what is missing.
            UnobtainableError, UnacceptableError: a blob cannot be got, or is not what it should be.
        """
        lease.add(blob.digest for blob in plan.blobs if self._content.has(blob))  # what comes now is kept without
        absent = [blob for blob in plan.blobs if not self._content.has(blob)]
        self._count(plan, absent, progress)
        layers = {digest: f"{subject}, {place}" for digest, place in plan.places.items()}
        with self._reserved((asker.client.source, absent), subject):
            read = self._fetch_all(asker, absent, progress, layers)
        unread = [blob for blob in plan.blobs if blob.digest not in read]
        progress.activity = "proving access to what is on this node already"
        try:
            self._prove_all(asker, unread, layers)
        finally:
            progress.activity = ""

    def make_room(self, asker: Asker, blob: Descriptor) -> None:
        """See to it that there is room for a blob that begins to be read.

        Raises:
            NoSpaceError: there is none.
        """
        with self._reserved((asker.client.source, [blob]), f"blob {blob.digest}"):
            return  # what comes of it is seen on the disk

    def deal(self) -> None:
        """Begin what may begin by now, since a pull may be wanted more than before."""
        self._blobs.deal()

    def _prove_all(self, asker: Asker, blobs: Sequence[Descriptor], layers: Mapping[Digest, str]) -> None:
        unproven = [blob for blob in blobs if not self._grants.allow(asker.repository, blob.digest, asker.holder)]
        registry, proofs = asker.repository.registry, {}
        for blob in unproven:
            in_full = not self._grants.served_by(registry, blob.digest)
            proofs[self._blobs.prove(asker, blob, in_full=in_full)] = layers[blob.digest]
        try:
            _raise_first(proofs)
        finally:
            for proof in proofs:  # after an error nobody wants the others
                proof.cancel()

    def _count(self, plan: Plan, absent: Sequence[Descriptor], progress: Progress) -> None:
        self._metrics.cache_misses.inc(len(absent))
        self._metrics.cache_hits.inc(len(plan.blobs) - len(absent))
        missing = {blob.digest for blob in absent}
        names = {entry.blob.digest: str(entry.name) for entry in plan.entries}
        for blob in plan.blobs:
            counter = Counter(blob.size)
            if blob.digest not in missing:
                counter.finish()
            progress.join(blob.digest, counter, names.get(blob.digest, blob.digest.short))

    @contextmanager
    def _reserved(self, reservation: _Reservation, subject: str) -> Iterator[None]:
        """Keep room for what is absent beside what other pulls have still to write.

        Room is made by whoever lacks it, and who has it waits for no collection.
        """
        lacking = self._admit(reservation, subject)
        for _ in range(_COLLECTIONS):
            if lacking:
                self._collector.make_room(lacking.size, lacking.files)
                lacking = self._admit(reservation, subject)
        if lacking:
            raise lacking.error
        try:
            yield
        finally:
            with self._lock:
                self._reservations = [other for other in self._reservations if other is not reservation]

    def _admit(self, reservation: _Reservation, subject: str) -> _Lacking | None:
        """Count a reservation in where there is room for it, or return what is lacking."""
        with self._lock:
            lacking = self._lacking([*self._reservations, reservation], subject) if reservation[1] else None
            if lacking is None:
                self._reservations.append(reservation)
        return lacking

    def _lacking(self, reservations: Sequence[_Reservation], subject: str) -> _Lacking | None:
        """Return what `reservations` need together, if the store does not have it at the moment."""
        # a blob of two pulls from one repository is written once, from two repositories twice
        expected = {(source, blob.digest): blob for source, blobs in reservations for blob in blobs}
        missing = {key: blob for key, blob in expected.items() if not self._content.has(blob)}
        needed = sum(blob.size - self._content.begun(blob, source) for (source, _), blob in missing.items())
        files, space = len(missing) + _MARGIN_FILES, self._collector.measure()
        if needed > space.available:
            error = NoSpaceError(
                subject,
                f"needs {human_size(needed)} with what other pulls need, "
                f"the store has room for {human_size(max(space.available, 0))} without what is in use",
                "make room on the node, raise store.maxBytes if it is set, or select less with include",
            )
        elif files > space.files:
            cause = f"needs {len(missing)} files, the store's file system has {space.files} inodes left"
            error = NoSpaceError(subject, cause, "remove files on the node, or select less with include")
        else:
            return None
        return _Lacking(needed, files, error)

    def _fetch_all(
        self, asker: Asker, absent: Sequence[Descriptor], progress: Progress, layers: Mapping[Digest, str]
    ) -> set[Digest]:
        """Fetch what is absent, and return which of it `asker` has read to the last byte."""
        wanted = {}
        for blob in absent:
            job = self._blobs.join(asker, blob)
            progress.join(blob.digest, job.counter)
            wanted[job.done] = blob.digest
        _raise_first({future: layers[digest] for future, digest in wanted.items()})
        return {digest for future, digest in wanted.items() if future.result()}


def _raise_first(futures: Mapping[Future[Any], str]) -> None:
    """Wait for futures, and raise the first error among them about what it is the future of."""
    ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in ended:
        if error := future.exception():
            raise error.about(futures[future]) if isinstance(error, CsiOrasError) else error
