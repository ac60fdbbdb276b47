"""The pace of all transfers together: so many bytes a second, dealt between those who want them.

Start-time fair queueing: each asker's next bytes are due after those that he had before, on a clock that counts bytes.
So two askers get the same while both want bytes, however many connections each has, and who comes late gets no more to
make up for it. What is wanted in the background comes after everything else.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

_SHARE_OF_SECOND = 32
"""What part of a second's bytes is dealt at once: finer is smoother and costs more."""
_LEAST_BYTES = 16 << 10


@dataclass(order=True, slots=True)
class _Asking:
    due: float
    number: int
    is_background: Callable[[], bool] = field(compare=False)
    ready: threading.Condition = field(compare=False)


class Pace:
    """Lets bytes through."""

    def __init__(self, bytes_per_second: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Let so many bytes through in a second; 0 is for no limit."""
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: list[_Asking] = []
        self._number = 0
        self._now = 0.0
        self._served: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._next = 0.0

    def resize(self, bytes_per_second: int) -> None:
        """Let so many through from now on."""
        with self._lock:
            if bytes_per_second != self._rate:
                self._rate, self._next = bytes_per_second, 0.0
                self._call_next()

    def ask(self, who: object, most: int, is_background: Callable[[], bool] = lambda: False) -> int:
        """Wait until `who` may read some bytes, and return how many, at most `most`."""
        if not self._rate:
            return most
        with self._lock:
            rate = self._rate or 1
            count = min(most, max(rate // _SHARE_OF_SECOND, _LEAST_BYTES))
            self._wait(self._enqueue(who, count, is_background))
            self._next = max(self._next, self._clock()) + count / rate
            self._call_next()
        return count

    def _enqueue(self, who: object, count: int, is_background: Callable[[], bool]) -> _Asking:
        self._number += 1
        due = max(self._now, self._served.get(who, 0.0))
        self._served[who] = due + count
        asking = _Asking(due, self._number, is_background, threading.Condition(self._lock))
        insort(self._asking, asking)
        return asking

    def _wait(self, asking: _Asking) -> None:
        """Wait for the turn of `asking`, and for the moment when there are bytes again."""
        while True:
            if self._first() is not asking:
                self._call_next()  # who has ceased to be in the background was not told
                asking.ready.wait()
            elif self._rate and (pause := self._next - self._clock()) > 0:
                asking.ready.wait(pause)
            else:
                break
        self._asking.remove(asking)
        self._now = max(self._now, asking.due)

    def _first(self) -> _Asking:
        return next((asking for asking in self._asking if not asking.is_background()), self._asking[0])

    def _call_next(self) -> None:
        if self._asking:
            self._first().ready.notify()
