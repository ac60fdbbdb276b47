"""Blobs into the store: one job per blob of a repository and a credential, however many ask.

Nobody waits for a source that he did not name: whoever asks another repository for the same blob fetches it by
himself, and the first to have all of it ends the fetching of the others.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from csi_oras.errors import UnacceptableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grant
from csi_oras.store.ingest import Ingest
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.pace import Pace
from csi_oras.transfer.proof import prove
from csi_oras.transfer.ranges import Pieces, RangesIgnoredError, Transfer, fetch_ranges, fetch_stream
from csi_oras.transfer.turns import Turns

_LOOK_SECONDS = 0.5
"""How often a job looks whether another source was faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Large blobs of a registry at once, ranges of one at once, bytes of a range, and bytes per second (0: no limit).

    What is no larger than a range is a small blob and one request.
    """

    blobs: int
    ranges: int
    range_bytes: int
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Asker:
    """A pull that wants blobs of a repository as one credential sees it, known to grants as `holder`.

    Turns and bytes are dealt between askers; each equals only itself.
    """

    client: RepositoryClient
    holder: str

    @property
    def repository(self) -> Repository:
        """Return where it asks."""
        return self.client.repository

    def grant(self, digest: Digest) -> Grant:
        """Return the record that it has read this."""
        return Grant(self.repository, digest, self.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobJob:
    """A blob that is being fetched for all who want it from one repository with one credential.

    `done` says whether bytes came that way, which proves access: not where another was first, nor where a crash had
    left all of them.
    """

    counter: Counter
    done: Future[bool]


class _OvertakenError(Exception):
    """The blob has come from elsewhere in the meantime."""


class BlobFetcher:
    """Fetches blobs into the store; small ones never wait for large ones, nor a registry's for another's."""

    def __init__(self, content: ContentStore, limits: Limits, metrics: Metrics) -> None:
        self._content = content
        self._metrics = metrics
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, BlobJob] = {}
        self._limits = limits
        self._large = Turns("blob", limits.blobs)
        self._ranges = Turns("range", limits.blobs * limits.ranges)
        self._small = Turns("small-blob", limits.blobs * limits.ranges)
        self._pace = Pace(limits.bytes_per_second)

    def join(self, asker: Asker, blob: Descriptor) -> BlobJob:
        """Return the job that fetches `blob` for `asker`; it is dealt the turns and bytes of who began it."""
        # the size, too: of two manifests of a repository, one may be wrong about it
        key = (asker.repository, asker.holder, blob.digest, blob.size)
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                return job
            job = self._jobs[key] = BlobJob(counter=Counter(blob.size), done=Future())
        job.done.add_done_callback(lambda _: self._forget(key))
        limits = self._limits
        turns = self._small if blob.size <= limits.range_bytes else self._large
        fetch = partial(self._fetch, asker, blob, job.counter, limits)
        turns.submit(asker.repository.registry, asker, fetch).add_done_callback(partial(_settle, job.done))
        return job

    def prove(self, asker: Asker, blob: Descriptor, *, in_full: bool) -> Future[None]:
        """Begin to prove, by all its bytes or some, that `asker` may read a blob which is here through others.

        The future holds an UnobtainableError where he may not, and a DigestMismatchError where his repository has
        something else under that digest.
        """
        ask = partial(self._pace.ask, asker)
        action = partial(prove, asker.client, blob, self._content, ask, in_full=in_full)
        return self._small.submit(asker.repository.registry, asker, action)

    def resize(self, limits: Limits) -> None:
        """Keep to other limits from now on; a blob under way goes on in as many ranges as it began."""
        self._limits = limits
        self._large.resize(limits.blobs)
        for turns in (self._ranges, self._small):
            turns.resize(limits.blobs * limits.ranges)
        self._pace.resize(limits.bytes_per_second)

    def close(self) -> None:
        """Begin nothing more."""
        for turns in (self._large, self._ranges, self._small):
            turns.close()

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._jobs.pop(key, None)

    def _fetch(self, asker: Asker, blob: Descriptor, counter: Counter, limits: Limits) -> Future[None] | bool:
        ingest = self._content.ingest(blob, asker.client.source)
        if ingest:
            transfer = Transfer(
                client=asker.client,
                ingest=ingest,
                counter=counter,
                ask=partial(self._pace.ask, asker),
                arrived=self._arrivals(blob),
            )
            with suppress(_OvertakenError):
                if blob.size <= limits.range_bytes:
                    return self._fetch_small(asker, transfer)
                return self._fetch_large(asker, transfer, limits)
        counter.finish()
        return False

    def _fetch_small(self, asker: Asker, transfer: Transfer) -> Future[None]:
        ingest = transfer.ingest
        with _abandoned_on_error(ingest):
            digest = retried(lambda: fetch_stream(transfer))
            if digest != ingest.blob.digest and asker.client.doubt_mirrors():
                digest = retried(lambda: fetch_stream(transfer))
        return self._content.commit_in_group(ingest, digest, asker.grant(digest))

    def _fetch_large(self, asker: Asker, transfer: Transfer, limits: Limits) -> bool:
        ingest = transfer.ingest
        with _abandoned_on_error(ingest):
            resumed, has_read = bool(ingest.covered), bool(ingest.missing)
            digest = self._ranged(asker, transfer, limits)
            wrong = digest != ingest.blob.digest  # or what a crash left behind was not what it seemed
            if wrong and (asker.client.doubt_mirrors() or resumed):
                ingest.discard()
                digest = self._ranged(asker, transfer, limits)
                has_read = True
        self._content.commit(ingest, digest, asker.grant(digest) if has_read else None)
        return has_read

    def _ranged(self, asker: Asker, transfer: Transfer, limits: Limits) -> Digest:
        pieces = Pieces(transfer.ingest.missing, size=limits.range_bytes, parallel=limits.ranges)
        try:
            return fetch_ranges(transfer, pieces, partial(self._ranges.submit, asker.repository.registry, asker))
        except RangesIgnoredError:
            return retried(lambda: fetch_stream(transfer))

    def _arrivals(self, blob: Descriptor) -> Callable[[int], None]:
        look, overtaken = 0.0, False

        def arrived(count: int) -> None:
            nonlocal look, overtaken
            self._metrics.pull_bytes.inc(count)
            if time.monotonic() > look:
                look, overtaken = time.monotonic() + _LOOK_SECONDS, self._content.has(blob)
            if overtaken:  # for each of the threads that fetch ranges
                raise _OvertakenError

        return arrived


@contextmanager
def _abandoned_on_error(ingest: Ingest) -> Iterator[None]:
    """Keep the bytes of what could not be got for the next attempt, and nothing of what was wrong or is too late."""
    try:
        yield
    except (UnacceptableError, _OvertakenError):
        ingest.remove()
        raise
    except BaseException:
        ingest.abandon()
        raise


def _settle(done: Future[bool], fetched: Future[Future[None] | bool]) -> None:
    """Give `done` the outcome of a fetch: whether the client read it all, or the commit after it did so."""
    if fetched.cancelled():  # nothing begins any more
        done.cancel()
    elif error := fetched.exception():
        done.set_exception(error)
    elif isinstance(outcome := fetched.result(), bool):
        done.set_result(outcome)
    else:
        outcome.add_done_callback(partial(_copy_outcome, done))


def _copy_outcome(done: Future[bool], committed: Future[None]) -> None:
    if error := committed.exception():
        done.set_exception(error)
    else:
        done.set_result(True)
