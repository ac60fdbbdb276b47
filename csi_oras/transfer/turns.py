"""Turns: work that waits for registries, at most so much at a time for each, and dealt between those who want it.

A registry has slots of its own, so that one that is dead or drips holds up nobody else's work; all registries
together have a few times as many, and where these are taken, too, one that has none still gets one. Within a registry
a free slot goes to the next of those who wait and not to the next piece of work: who wants one thing does not wait for
all of somebody's five hundred. Background work gets a slot when nobody else waits for that registry, and never more
than half of them. Threads are there only as long as there is work.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

REGISTRIES = 4
"""How many registries may have all their slots busy at the same time."""
LATECOMERS = 64
"""How many more may have one."""

_Result = TypeVar("_Result")
_Queue = OrderedDict[Hashable, "deque[_Task]"]
"""What waits for one registry, by who wants it; the first is next."""


@dataclass(slots=True)
class _Task:
    registry: str
    action: Callable[[], Any]
    future: Future[Any]
    is_background: Callable[[], bool]
    began_in_background: bool = False

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.action()
        except BaseException as error:  # noqa: BLE001 (it is for those who wait)
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Turns:
    """Runs actions in threads, so many for each registry at once."""

    def __init__(self, name: str, share: int) -> None:
        """Call threads `name`; run up to `share` actions of a registry at once."""
        self._name = name
        self._share = share
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, _Queue] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._background: Counter[str] = Counter()
        """How many of those that run have begun in the background."""
        self._is_closed = False

    def submit(
        self,
        registry: str,
        who: Hashable,
        action: Callable[[], _Result],
        is_background: Callable[[], bool] = lambda: False,
    ) -> Future[_Result]:
        """Run `action` when a slot of `registry` is free and it is the turn of `who`; the future has its outcome.

        `is_background`, the same for all that `who` has waiting, is asked whenever a slot is dealt.

        Raises:
            RuntimeError: nothing begins any more.
        """
        future: Future[_Result] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("is closed")
            queue = self._waiting.setdefault(registry, OrderedDict())
            queue.setdefault(who, deque()).append(_Task(registry, action, future, is_background))
            self._begin()
        return future

    def deal(self) -> None:
        """Begin what may begin by now, since something has ceased to be background work."""
        with self._lock:
            self._begin()

    def resize(self, share: int) -> None:
        """Run up to `share` actions of a registry at once from now on; what runs goes on."""
        with self._lock:
            self._share = share
            self._begin()

    def close(self) -> None:
        """Begin nothing more, and cancel what waits."""
        with self._lock:
            self._is_closed = True
            waiting = [task for queue in self._waiting.values() for tasks in queue.values() for task in tasks]
            self._waiting.clear()
        for task in waiting:
            task.future.cancel()

    def _begin(self) -> None:
        while task := self._take():
            # a daemon: who ends the program in mid-transfer means it, and the bytes so far are kept
            thread = threading.Thread(target=self._work, args=(task,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the node gives us no more threads
                self._give_back(task)
                task.future.set_exception(error)

    def _work(self, task: _Task | None) -> None:
        while task:
            task.run()
            with self._lock:
                self._give_back(task)
                task = self._take()

    def _take(self) -> _Task | None:
        """Take a slot and whose turn it is, if there are both."""
        beyond = self._running.total() - self._share * REGISTRIES
        if beyond >= LATECOMERS:
            return None
        share = self._share if beyond < 0 else 1
        for registry, queue in self._waiting.items():
            if self._running[registry] < share and (who := self._next(registry, queue)) is not None:
                return self._taken(registry, queue, who)
        return None

    def _next(self, registry: str, queue: _Queue) -> Hashable:
        """Return whose turn it is, or None: only background work waits, and enough of it runs."""
        urgent = (who for who, tasks in queue.items() if not tasks[0].is_background())
        others = queue if self._background[registry] < max(self._share // 2, 1) else ()
        return next(chain(urgent, others), None)

    def _taken(self, registry: str, queue: _Queue, who: Hashable) -> _Task:
        tasks = queue[who]
        task = tasks.popleft()
        _to_the_end(queue, who, is_done=not tasks)
        _to_the_end(self._waiting, registry, is_done=not queue)
        self._running[registry] += 1
        task.began_in_background = task.is_background()
        self._background[registry] += task.began_in_background
        return task

    def _give_back(self, task: _Task) -> None:
        registry = task.registry
        self._running[registry] -= 1
        self._background[registry] -= task.began_in_background
        if not self._running[registry]:  # names of registries come from outside: none is kept
            del self._running[registry], self._background[registry]


def _to_the_end(queue: "OrderedDict[Any, Any]", key: Hashable, *, is_done: bool) -> None:
    if is_done:
        del queue[key]
    else:
        queue.move_to_end(key)
