"""Jobs: work that outlives the call that asked for it, done once however many ask.

A job that ends while nobody waits keeps its outcome for the next who asks: a call that timed out comes back,
and must hear of the failure too.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.turns import Turns

_Outcome = TypeVar("_Outcome")

KEPT_SECONDS = 150.0
"""How long an outcome waits for somebody to ask; the kubelet comes back within 2 min 3 s."""


class Job(Generic[_Outcome]):
    """One piece of work, its progress and its outcome."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.progress = Progress()
        self.future: Future[_Outcome] = Future()
        self.waiters = 0
        self.ended = 0.0


class Jobs(Generic[_Outcome]):
    """The jobs that run, by key."""

    def __init__(self, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = turns
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, Job[_Outcome]] = {}

    def join(self, key: Hashable, registry: str, work: Callable[[Progress], _Outcome]) -> Job[_Outcome]:
        """Return the job of `key`, begun now with `work` unless it runs or its outcome was not heard yet.

        It has a slot of `registry` until it ends.
        """
        with self._lock:
            self._forget_stale()
            job = self._jobs.get(key)
            if job is not None:
                return job
            job = self._jobs[key] = Job(key)
        try:
            # the log fields of the call that asked first go with the work
            self._turns.submit(registry, job, partial(contextvars.copy_context().run, self._run, job, work))
        except BaseException:
            with self._lock:
                del self._jobs[key]
            raise
        return job

    @contextmanager
    def waiting(self, job: Job[_Outcome]) -> Iterator[None]:
        """Mark a block in which somebody waits for the outcome, and takes it if it comes."""
        with self._lock:
            job.waiters += 1
        try:
            yield
        finally:
            with self._lock:
                job.waiters -= 1
                if job.future.done() and self._jobs.get(job.key) is job:
                    del self._jobs[job.key]

    @property
    def running(self) -> int:
        """How many jobs run now."""
        with self._lock:
            return sum(not job.future.done() for job in self._jobs.values())

    def _run(self, job: Job[_Outcome], work: Callable[[Progress], _Outcome]) -> None:
        try:
            outcome = work(job.progress)
        except BaseException as error:  # noqa: BLE001 (it is for those who wait)
            self._end(job)
            job.future.set_exception(error)
        else:
            self._end(job)
            job.future.set_result(outcome)

    def _end(self, job: Job[_Outcome]) -> None:
        with self._lock:
            job.ended = self._clock()
            if job.waiters and self._jobs.get(job.key) is job:
                del self._jobs[job.key]

    def _forget_stale(self) -> None:
        limit = self._clock() - KEPT_SECONDS
        for key in [key for key, job in self._jobs.items() if job.ended and job.ended < limit]:
            del self._jobs[key]
