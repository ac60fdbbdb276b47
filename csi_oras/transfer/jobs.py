"""Jobs: work that outlives the call that asked for it, done once however many ask.

A job that ends while nobody waits keeps its outcome for the next who asks: a call that timed out comes back,
and must hear of the failure too. A job is wanted by those who joined it until they leave. When the last has left and
nobody has come for a while, it is not wanted any more, for good: whoever asks then begins another. It is the work that
asks whether it is wanted.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar
from weakref import WeakSet

from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.turns import Turns

_Outcome = TypeVar("_Outcome")

KEPT_SECONDS = 150.0
"""How long an outcome waits for somebody to ask; the kubelet comes back within 2 min 3 s."""
GRACE_SECONDS = 10.0
"""How long a job goes on that everybody has left: the pod that replaces another joins it."""


class Job(Generic[_Outcome]):
    """One piece of work, its progress and its outcome."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.progress = Progress()
        self.future: Future[_Outcome] = Future()
        self.waiters = 0
        self.ended = 0.0
        self.holders: dict[Hashable, Demand] = {}
        """Who wants it, and how much."""
        self.left = 0.0
        """When the last of them left."""


class Jobs(Generic[_Outcome]):
    """The jobs that run, by key."""

    def __init__(self, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = turns
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[Hashable, Job[_Outcome]] = {}
        self._alive: WeakSet[Job[_Outcome]] = WeakSet()
        """Those, too, that have ended while a part of their work goes on."""

    def join(
        self,
        key: Hashable,
        registry: str,
        work: Callable[[Job[_Outcome]], _Outcome],
        holder: Hashable = None,
        demand: Demand = Demand.FOREGROUND,
    ) -> Job[_Outcome]:
        """Return the job of `key`, begun now with `work` unless it runs or its outcome was not heard yet.

        It has a slot of `registry` until it ends. `holder` wants it until he leaves; without a name, nobody can.
        """
        with self._lock:
            self._forget_stale()
            job = self._jobs.get(key)
            is_new = job is None
            if job is None:
                job = self._jobs[key] = Job(key)
                self._alive.add(job)
            job.holders[holder] = max(demand, job.holders.get(holder, Demand.NONE))
        if is_new:
            self._begin(job, registry, work)
        else:
            self._turns.deal()  # it may be wanted more than before
        return job

    def leave(self, holder: Hashable) -> None:
        """Note that `holder` wants nothing any more."""
        with self._lock:
            for job in self._alive:
                if job.holders.pop(holder, None) and not job.holders:
                    job.left = self._clock()
                    if job.future.done():  # nobody is left who should hear of it
                        self._forget(job)

    def demand(self, job: Job[_Outcome]) -> Demand:
        """Return how much a job is wanted now; one that is not at all never is again."""
        with self._lock:
            if job.holders:
                return max(job.holders.values())
            if self._clock() < job.left + GRACE_SECONDS:
                return Demand.BACKGROUND
            self._forget(job)
            return Demand.NONE

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
                if job.future.done():
                    self._forget(job)

    @property
    def running(self) -> int:
        """How many jobs run now."""
        with self._lock:
            return sum(not job.future.done() for job in self._jobs.values())

    def _begin(self, job: Job[_Outcome], registry: str, work: Callable[[Job[_Outcome]], _Outcome]) -> None:
        # the log fields of the call that asked first go with the work
        run = partial(contextvars.copy_context().run, self._run, job, work)
        try:
            self._turns.submit(registry, job, run, lambda: self.demand(job) is Demand.BACKGROUND)
        except BaseException:
            with self._lock:
                self._forget(job)
            raise

    def _run(self, job: Job[_Outcome], work: Callable[[Job[_Outcome]], _Outcome]) -> None:
        try:
            self.demand(job).check()
            outcome = work(job)
        except BaseException as error:  # noqa: BLE001 (it is for those who wait)
            self._end(job)
            job.future.set_exception(error)
        else:
            self._end(job)
            job.future.set_result(outcome)

    def _end(self, job: Job[_Outcome]) -> None:
        with self._lock:
            job.ended = self._clock()
            if job.waiters or not job.holders:
                self._forget(job)

    def _forget(self, job: Job[_Outcome]) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]

    def _forget_stale(self) -> None:
        limit = self._clock() - KEPT_SECONDS
        for key in [key for key, job in self._jobs.items() if job.ended and job.ended < limit]:
            del self._jobs[key]
