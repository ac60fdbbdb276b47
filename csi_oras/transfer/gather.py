"""Gathering: every blob of a plan into the store, each fetched or proven with the asker's own credential."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager

from csi_oras.errors import CsiOrasError, NoSpaceError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grants
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Counter, Progress, human_size
from csi_oras.transfer.blobs import BlobFetcher, BlobJob

_ATTEMPTS = 3
_MARGIN_BYTES = 16 << 20
"""What a file system keeps free beside the blobs, for the database and for directories."""


class Gatherer:
    """Brings blobs together."""

    def __init__(self, content: ContentStore, grants: Grants, blobs: BlobFetcher, metrics: Metrics) -> None:
        self._content = content
        self._grants = grants
        self._blobs = blobs
        self._metrics = metrics
        self._lock = threading.Lock()
        self._reservations: list[Sequence[Descriptor]] = []

    def gather(self, client: RepositoryClient, plan: Plan, credential: str, progress: Progress, subject: str) -> None:
        """Return when every blob of `plan` is in the store and this credential has been seen to read it.

        Raises:
            NoSpaceError: there is no room for what is missing.
            UnobtainableError, UnacceptableError: a blob cannot be got, or is not what it should be.
        """
        absent = [blob for blob in plan.blobs if not self._content.has(blob)]
        self._count(plan.blobs, absent, progress)
        layers = {digest: f"{subject}, {place}" for digest, place in plan.places.items()}
        with self._reserved(absent, subject):
            read = self._fetch_all(client, absent, progress, layers)
        unproven = [
            blob
            for blob in plan.blobs
            if blob.digest not in read and not self._grants.allow(client.repository, blob.digest, credential)
        ]
        self._blobs.prove_all(client, unproven)

    def _count(self, blobs: Sequence[Descriptor], absent: Sequence[Descriptor], progress: Progress) -> None:
        self._metrics.cache_misses.inc(len(absent))
        self._metrics.cache_hits.inc(len(blobs) - len(absent))
        missing = {blob.digest for blob in absent}
        for blob in blobs:
            counter = Counter(blob.size)
            if blob.digest not in missing:
                counter.finish()
            progress.join(blob.digest, counter)

    @contextmanager
    def _reserved(self, absent: Sequence[Descriptor], subject: str) -> Iterator[None]:
        """Keep room for `absent` beside what other pulls have still to write; a blob of two pulls is one."""
        with self._lock:
            expected = {blob.digest: blob for blobs in (*self._reservations, absent) for blob in blobs}
            if absent:
                self._check_room([blob for blob in expected.values() if not self._content.has(blob)], subject)
            self._reservations.append(absent)
        try:
            yield
        finally:
            with self._lock:
                self._reservations = [blobs for blobs in self._reservations if blobs is not absent]

    def _check_room(self, expected: Sequence[Descriptor], subject: str) -> None:
        needed = sum(blob.size - self._content.begun(blob) for blob in expected)
        room = self._content.room() - _MARGIN_BYTES
        if needed > room:
            raise NoSpaceError(
                subject,
                f"needs {human_size(needed)} with what other pulls need, "
                f"the store has room for {human_size(max(room, 0))}",
                "make room on the node, or select less with include",
            )

    def _fetch_all(
        self,
        client: RepositoryClient,
        absent: Sequence[Descriptor],
        progress: Progress,
        layers: dict[Digest, str],
    ) -> set[Digest]:
        """Fetch what is absent, and return which of it `client` is known to have read.

        Another's job may fail for a reason of its own: a credential, or a registry that sends something else
        under the digest. Then the blob is asked for again.
        """
        read: set[Digest] = set()
        started: set[Digest] = set()
        wanted = list(absent)
        for attempt in range(_ATTEMPTS):
            jobs: dict[Future[bool], tuple[Descriptor, BlobJob]] = {}
            for blob in wanted:
                job, is_new = self._blobs.join(client, blob)
                jobs[job.done] = (blob, job)
                progress.join(blob.digest, job.counter)
                if is_new:
                    started.add(blob.digest)
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            read |= {blob.digest for blob, job in jobs.values() if job.was_read_by(client)}
            failed = [(jobs[future][0], error) for future in done if (error := future.exception())]
            for blob, error in failed:
                others = blob.digest not in started and isinstance(error, CsiOrasError)
                if not others or attempt == _ATTEMPTS - 1:
                    raise error.about(layers[blob.digest]) if isinstance(error, CsiOrasError) else error
            if not failed:
                break
            wanted = [blob for blob in wanted if not self._content.has(blob)]
        return read
