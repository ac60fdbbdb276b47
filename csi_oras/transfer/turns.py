"""Turns: work that waits for registries, at most so much at a time for each, and dealt between those who want it.

A registry has slots of its own, so that one that is dead or drips holds up nobody else's work; all registries
together have a few times as many, and where these are taken, too, one that has none still gets one. Within a registry
a free slot goes to the next of those who wait and not to the next piece of work: who wants one thing does not wait for
all of somebody's five hundred. Threads are there only as long as there is work.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

REGISTRIES = 4
"""How many registries may have all their slots busy at the same time."""
LATECOMERS = 64
"""How many more may have one."""

_Result = TypeVar("_Result")
_Queue = OrderedDict[Hashable, "deque[_Task]"]
"""What waits for one registry, by who wants it; the first is next."""


class _Task(NamedTuple):
    registry: str
    action: Callable[[], Any]
    future: Future[Any]

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
        self._is_closed = False

    def submit(self, registry: str, who: Hashable, action: Callable[[], _Result]) -> Future[_Result]:
        """Run `action` when a slot of `registry` is free and it is the turn of `who`; the future has its outcome.

        Raises:
            RuntimeError: nothing begins any more.
        """
        future: Future[_Result] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("is closed")
            queue = self._waiting.setdefault(registry, OrderedDict())
            queue.setdefault(who, deque()).append(_Task(registry, action, future))
            self._begin()
        return future

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
                self._give_back(task.registry)
                task.future.set_exception(error)

    def _work(self, task: _Task | None) -> None:
        while task:
            task.run()
            with self._lock:
                self._give_back(task.registry)
                task = self._take()

    def _take(self) -> _Task | None:
        """Take a slot and whose turn it is, if there are both."""
        beyond = self._running.total() - self._share * REGISTRIES
        if beyond >= LATECOMERS:
            return None
        share = self._share if beyond < 0 else 1
        registry = next((registry for registry in self._waiting if self._running[registry] < share), None)
        if registry is None:
            return None
        queue = self._waiting[registry]
        who, tasks = next(iter(queue.items()))
        task = tasks.popleft()
        _to_the_end(queue, who, is_done=not tasks)
        _to_the_end(self._waiting, registry, is_done=not queue)
        self._running[registry] += 1
        return task

    def _give_back(self, registry: str) -> None:
        self._running[registry] -= 1
        if not self._running[registry]:  # names of registries come from outside: none is kept
            del self._running[registry]


def _to_the_end(queue: "OrderedDict[Any, Any]", key: Hashable, *, is_done: bool) -> None:
    if is_done:
        del queue[key]
    else:
        queue.move_to_end(key)
