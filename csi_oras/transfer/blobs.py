"""Blobs into the store: one job per blob of a repository and a credential, however many ask.

Nobody waits for a source that he did not name: whoever asks another repository for the same blob fetches it by
himself, and the first to have all of it ends the fetching of the others.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from csi_oras.errors import UnacceptableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grant
from csi_oras.store.ingest import Ingest
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.proof import prove
from csi_oras.transfer.ranges import Pieces, RangesIgnoredError, fetch_ranges, fetch_stream

_LOOK_SECONDS = 0.5
"""How often a job looks whether another source was faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Large blobs at once, ranges of one at once, and the bytes of a range; smaller blobs are one request."""

    blobs: int
    ranges: int
    range_bytes: int


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


class _Pools:
    """Threads for large blobs, for their ranges, and for small blobs, which never wait for large ones."""

    def __init__(self, parallelism: Parallelism) -> None:
        self.parallelism = parallelism
        requests = parallelism.blobs * parallelism.ranges
        self.large = ThreadPoolExecutor(parallelism.blobs, "blob")
        self.ranges = ThreadPoolExecutor(requests, "range")
        self.small = ThreadPoolExecutor(requests, "small-blob")

    def close(self) -> None:
        for pool in (self.large, self.ranges, self.small):
            pool.shutdown(wait=False, cancel_futures=True)


class BlobFetcher:
    """Fetches blobs into the store."""

    def __init__(self, content: ContentStore, parallelism: Parallelism, metrics: Metrics) -> None:
        self._content = content
        self._metrics = metrics
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, BlobJob] = {}
        self._pools = _Pools(parallelism)

    def join(self, client: RepositoryClient, blob: Descriptor, holder: str) -> BlobJob:
        """Return the job that fetches `blob` from the repository of `client` with its credential, known as `holder`."""
        # the size, too: of two manifests of a repository, one may be wrong about it
        key = (client.repository, holder, blob.digest, blob.size)
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                return job
            job = self._jobs[key] = BlobJob(counter=Counter(blob.size), done=Future())
        job.done.add_done_callback(lambda _: self._forget(key))
        pools = self._pools
        pool = pools.small if blob.size <= pools.parallelism.range_bytes else pools.large
        pool.submit(_settle, job.done, lambda: self._fetch(client, blob, holder, job.counter, pools))
        return job

    def prove(self, client: RepositoryClient, blob: Descriptor, *, in_full: bool) -> Future[None]:
        """Begin to prove, by all its bytes or some, that `client` may read a blob which is here through others.

        The future holds an UnobtainableError where it may not, and a DigestMismatchError where its repository has
        something else under that digest.
        """
        return self._pools.small.submit(prove, client, blob, self._content, in_full=in_full)

    def resize(self, parallelism: Parallelism) -> None:
        """Fetch with another parallelism from now on; what runs goes on as it began."""
        if parallelism != self._pools.parallelism:
            self._pools = _Pools(parallelism)

    def close(self) -> None:
        """Begin nothing more."""
        self._pools.close()

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._jobs.pop(key, None)

    def _fetch(
        self, client: RepositoryClient, blob: Descriptor, holder: str, counter: Counter, pools: "_Pools"
    ) -> Future[None] | bool:
        ingest = self._content.ingest(blob, client.source)
        if ingest:
            with suppress(_OvertakenError):
                if blob.size <= pools.parallelism.range_bytes:
                    return self._fetch_small(client, ingest, holder, counter)
                return self._fetch_large(client, ingest, holder, counter, pools)
        counter.finish()
        return False

    def _fetch_small(self, client: RepositoryClient, ingest: Ingest, holder: str, counter: Counter) -> Future[None]:
        with _abandoned_on_error(ingest):
            digest = self._stream(client, ingest, counter)
            if digest != ingest.blob.digest and client.doubt_mirrors():
                digest = self._stream(client, ingest, counter)
        return self._content.commit_in_group(ingest, digest, Grant(client.repository, digest, holder))

    def _fetch_large(
        self, client: RepositoryClient, ingest: Ingest, holder: str, counter: Counter, pools: "_Pools"
    ) -> bool:
        with _abandoned_on_error(ingest):
            resumed, has_read = bool(ingest.covered), bool(ingest.missing)
            digest = self._ranged(client, ingest, counter, pools)
            wrong = digest != ingest.blob.digest  # or what a crash left behind was not what it seemed
            if wrong and (client.doubt_mirrors() or resumed):
                ingest.discard()
                digest = self._ranged(client, ingest, counter, pools)
                has_read = True
        grant = Grant(client.repository, digest, holder) if has_read else None
        self._content.commit(ingest, digest, grant)
        return has_read

    def _ranged(self, client: RepositoryClient, ingest: Ingest, counter: Counter, pools: "_Pools") -> Digest:
        counter.resume(ingest.covered)
        pieces = Pieces(ingest.missing, size=pools.parallelism.range_bytes, parallel=pools.parallelism.ranges)
        try:
            return fetch_ranges(client, ingest, self._advance(ingest.blob, counter), pools.ranges, pieces)
        except RangesIgnoredError:
            return self._stream(client, ingest, counter)

    def _stream(self, client: RepositoryClient, ingest: Ingest, counter: Counter) -> Digest:
        def attempt() -> Digest:
            counter.resume(0)
            return fetch_stream(client, ingest, self._advance(ingest.blob, counter))

        return retried(attempt)

    def _advance(self, blob: Descriptor, counter: Counter) -> Callable[[int], None]:
        look, overtaken = 0.0, False

        def advance(count: int) -> None:
            nonlocal look, overtaken
            counter.advance(count)
            self._metrics.pull_bytes.inc(count)
            if time.monotonic() > look:
                look, overtaken = time.monotonic() + _LOOK_SECONDS, self._content.has(blob)
            if overtaken:  # for each of the threads that fetch ranges
                raise _OvertakenError

        return advance


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


def _settle(done: Future[bool], fetch: Callable[[], Future[None] | bool]) -> None:
    """Give `done` the outcome of `fetch`: whether the client read it all, or the commit after it did so."""
    try:
        outcome = fetch()
    except BaseException as error:  # noqa: BLE001 (it is for those who wait)
        done.set_exception(error)
        return
    if isinstance(outcome, bool):
        done.set_result(outcome)
    else:
        outcome.add_done_callback(lambda committed: _copy_outcome(committed, done))


def _copy_outcome(committed: Future[None], done: Future[bool]) -> None:
    if error := committed.exception():
        done.set_exception(error)
    else:
        done.set_result(True)
