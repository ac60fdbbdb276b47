"""Blobs into the store: one job per blob of a repository and a credential, however many ask.

Nobody waits for a source that he did not name: whoever asks another repository for the same blob fetches it by
himself, and the first to have all of it ends the fetching of the others. Of those who ask one repository with several
credentials, one has the ingest and the others wait for it; who reads while it comes, and has shown that he may, reads
with the first. A job that none of those who asked wants any more ends, too, and leaves nothing.
"""

import threading
import time
from collections import Counter as StdCounter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from csi_oras.errors import UnacceptableError, UnwantedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.retries import retried
from csi_oras.store.content import ContentStore
from csi_oras.store.ingest import Ingest
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.asker import Asker
from csi_oras.transfer.blob_job import BlobJob
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.pace import Pace
from csi_oras.transfer.pieces import Pieces
from csi_oras.transfer.proof import prove, read_some
from csi_oras.transfer.ranges import EndedError, RangedFetch, RangesIgnoredError, Transfer, fetch_stream
from csi_oras.transfer.turns import Turns

_MOST_READ = 256
"""Large blobs of one registry that are read while they come; each is a thread that mostly waits."""
_LOOK_SECONDS = 0.5
"""How often a job looks whether it is wanted, and whether another source was faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Large blobs of a registry at once, ranges of one at once, bytes of a range, and bytes per second (0: no limit).

    What is no larger than a range is a small blob and one request.
    """

    blobs: int
    ranges: int
    range_bytes: int
    bytes_per_second: int = 0


class Fetch(NamedTuple):
    """What somebody has of a blob that is being fetched.

    `done` says whether bytes came that way, which proves access: not where another was first, nor where a crash had
    left all of them.
    """

    counter: Counter
    done: Future[bool]


class _OvertakenError(EndedError):
    """The blob has come from elsewhere in the meantime."""


class BlobFetcher:
    """Fetches blobs into the store; small ones never wait for large ones, nor a registry's for another's."""

    def __init__(self, content: ContentStore, limits: Limits, metrics: Metrics) -> None:
        self._content = content
        self._metrics = metrics
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, BlobJob] = {}
        self._fetching: dict[Hashable, BlobJob] = {}
        """Those that have their ingest, by it."""
        self._limits = limits
        self._urgent: StdCounter[str] = StdCounter()
        """How many wait for bytes of blobs that they read, by registry."""
        self._large = Turns("blob", limits.blobs)
        self._read = Turns("read-blob", _MOST_READ)
        self._ranges = Turns("range", limits.blobs * limits.ranges)
        self._small = Turns("small-blob", limits.blobs * limits.ranges)
        self._pace = Pace(limits.bytes_per_second)

    def join(self, asker: Asker, blob: Descriptor) -> Fetch:
        """Fetch `blob` for `asker` and all others who ask for it: in the first turn that one of them gets."""
        job, done = self._join(asker, blob, self._large)
        return Fetch(job.counter, done)

    def read(self, asker: Asker, blob: Descriptor) -> tuple[BlobJob, Future[bool]]:
        """Fetch `blob` as `join` does, at once, for somebody who reads it while it comes."""
        job, done = self._join(asker, blob, self._read)
        job.is_read = True
        return job, done

    @contextmanager
    def urgent(self, registry: str) -> Iterator[None]:
        """Hold back in a with statement what nobody waits for from a registry."""
        with self._lock:
            self._urgent[registry] += 1
        try:
            yield
        finally:
            with self._lock:
                self._urgent[registry] -= 1
                if not self._urgent[registry]:
                    del self._urgent[registry]

    def _join(self, asker: Asker, blob: Descriptor, large: Turns) -> tuple[BlobJob, Future[bool]]:
        fresh = BlobJob(blob, asker.client.source, asker.holder)
        with self._lock:
            job = self._jobs.setdefault(fresh.key, fresh)
            done = job.askers.setdefault(asker, Future())
        if not job.is_begun:
            turns = self._small if blob.size <= self._limits.range_bytes else large
            turn = turns.submit(
                asker.repository.registry, asker, partial(self._take_turn, job, asker), asker.is_background
            )
            turn.add_done_callback(partial(self._lose_turn, job, asker))
        return job, done

    def prove(self, asker: Asker, blob: Descriptor, *, in_full: bool) -> Future[None]:
        """Begin to prove, by all its bytes or some, that `asker` may read a blob which is here through others.

        The future holds an UnobtainableError where he may not, and a DigestMismatchError where his repository has
        something else under that digest.
        """
        return self._ask(asker, lambda ask: prove(asker.client, blob, self._content, ask, in_full=in_full))

    def prove_coming(self, asker: Asker, blob: Descriptor) -> Future[None]:
        """Begin to prove that `asker` may read a blob which comes from his repository with another credential.

        The future holds an UnobtainableError where he may not.
        """
        return self._ask(asker, lambda ask: read_some(asker.client, blob, ask))

    def _ask(self, asker: Asker, proof: Callable[[Callable[[int], int]], None]) -> Future[None]:
        """Begin a proof in the next turn; it gets what says how much may be read."""

        def ask(most: int) -> int:
            asker.demand().check()
            return self._pace.ask(asker, most, asker.is_background)

        def action() -> None:
            asker.demand().check()
            proof(ask)

        return self._small.submit(asker.repository.registry, asker, action, asker.is_background)

    def lender(self, job: BlobJob) -> BlobJob | None:
        """Return who has the ingest that a job waits for, if it is known: a job with another credential."""
        with self._lock:
            other = self._fetching.get(job.ingest)
        return None if other is job else other

    def deal(self) -> None:
        """Begin what may begin by now, since a pull has ceased to be background work."""
        for turns in (self._large, self._small):
            turns.deal()

    def resize(self, limits: Limits) -> None:
        """Keep to other limits from now on; a blob under way goes on in as many ranges as it began."""
        self._limits = limits
        self._large.resize(limits.blobs)
        for turns in (self._ranges, self._small):
            turns.resize(limits.blobs * limits.ranges)
        self._pace.resize(limits.bytes_per_second)

    def close(self) -> None:
        """Begin nothing more."""
        for turns in (self._large, self._read, self._ranges, self._small):
            turns.close()

    def _take_turn(self, job: BlobJob, asker: Asker) -> None:
        self._release(job)
        with self._lock:
            if job.is_begun or asker not in job.askers:
                return
            job.is_begun = True
        try:
            outcome = self._fetch(job, asker, self._limits)
        except BaseException as error:  # noqa: BLE001 (it is for those who wait)
            self._end(job, error)
        else:
            if isinstance(outcome, bool):
                self._end(job, outcome)
            else:
                outcome.add_done_callback(lambda committed: self._end(job, committed.exception() or True))

    def _lose_turn(self, job: BlobJob, asker: Asker, turn: Future[None]) -> None:
        """Hear that a turn is over; one that never came is the end for its asker."""
        error = CancelledError() if turn.cancelled() else turn.exception()
        if error:
            self._let_go(job, asker, error)

    def _release(self, job: BlobJob) -> None:
        """Let go of those who do not want it any more."""
        for asker in tuple(job.askers):
            try:
                asker.demand().check()
            except UnwantedError as error:
                self._let_go(job, asker, error)

    def _let_go(self, job: BlobJob, asker: Asker, error: BaseException) -> None:
        with self._lock:
            done = job.askers.pop(asker, None)
            if not job.askers:  # for good: whoever asks now begins another
                self._forget(job)
        if done:
            done.set_exception(error)

    def _end(self, job: BlobJob, outcome: bool | BaseException) -> None:  # noqa: FBT001 (what a future is given)
        with self._lock:
            self._forget(job)
            ended, job.askers = [job.over, *job.askers.values()], {}
        for done in ended:
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

    def _forget(self, job: BlobJob) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        if self._fetching.get(job.ingest) is job:
            del self._fetching[job.ingest]

    def _fetch(self, job: BlobJob, asker: Asker, limits: Limits) -> Future[None] | bool:
        if lender := self.lender(job):
            lender.rivals.append(job)  # it is to make as much haste as we would
        with suppress(_OvertakenError):
            ingest = self._content.ingest(job.blob, asker.client.source, partial(self._check, job))
            if ingest is None:
                raise _OvertakenError
            with self._lock:
                self._fetching[job.ingest] = job
            transfer = Transfer(
                client=asker.client,
                ingest=ingest,
                counter=job.counter,
                ask=lambda most: self._pace.ask(asker, most, lambda: _is_background(job)),
                arrived=self._arrivals(job),
                check=partial(self._check, job),
            )
            if job.blob.size <= limits.range_bytes:
                return self._fetch_small(job, asker, transfer)
            return self._fetch_large(job, asker, transfer, limits)
        job.counter.finish()
        return False

    def _fetch_small(self, job: BlobJob, asker: Asker, transfer: Transfer) -> Future[None]:
        ingest, job.comes_whole = transfer.ingest, True
        with _abandoned_on_error(job, ingest):
            digest = retried(lambda: fetch_stream(transfer))
            if digest != ingest.blob.digest and asker.client.doubt_mirrors():
                digest = retried(lambda: fetch_stream(transfer))
        return self._content.commit_in_group(ingest, digest, asker.grant(digest))

    def _fetch_large(self, job: BlobJob, asker: Asker, transfer: Transfer, limits: Limits) -> bool:
        ingest = transfer.ingest
        with _abandoned_on_error(job, ingest):
            resumed, has_read = bool(ingest.covered), bool(ingest.missing)
            digest = self._ranged(job, asker, transfer, limits)
            wrong = digest != ingest.blob.digest  # or what a crash left behind was not what it seemed
            if wrong and (asker.client.doubt_mirrors() or resumed):
                ingest.discard()
                digest = self._ranged(job, asker, transfer, limits)
                has_read = True
        self._content.commit(ingest, digest, asker.grant(digest) if has_read else None)
        return has_read

    def _ranged(self, job: BlobJob, asker: Asker, transfer: Transfer, limits: Limits) -> Digest:
        registry, pieces = (
            asker.repository.registry,
            Pieces(transfer.ingest.missing, size=limits.range_bytes, parallel=limits.ranges),
        )
        ranged = RangedFetch(transfer, pieces, lambda: self._is_held_back(job, registry))
        job.open(ranged)
        try:
            return ranged.run(lambda action: self._ranges.submit(registry, asker, action, lambda: _is_background(job)))
        except RangesIgnoredError:
            job.comes_whole = True
            return retried(lambda: fetch_stream(transfer))

    def _is_held_back(self, job: BlobJob, registry: str) -> bool:
        """Say whether what nobody waits for has to wait for what somebody does."""
        return _is_background(job) and self._urgent[registry] > 0

    def _arrivals(self, job: BlobJob) -> Callable[[int], None]:
        look = time.monotonic() + _LOOK_SECONDS

        def arrived(count: int) -> None:
            nonlocal look
            self._metrics.pull_bytes.inc(count)
            if time.monotonic() > look:
                self._check(job)  # where it raises, it is time to look for each of the threads that fetch ranges
                look = time.monotonic() + _LOOK_SECONDS

        return arrived

    def _check(self, job: BlobJob) -> None:
        self._release(job)
        job.demand().check()
        if self._content.has(job.blob):
            raise _OvertakenError


def _is_background(job: BlobJob) -> bool:
    return job.demand() is Demand.BACKGROUND


@contextmanager
def _abandoned_on_error(job: BlobJob, ingest: Ingest) -> Iterator[None]:
    """Keep the bytes of what could not be got for the next attempt, and nothing of what was wrong or is too late."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (UnacceptableError, _OvertakenError)) or not (job.askers or job.is_read):
            ingest.remove()
        else:
            ingest.abandon()
        raise
