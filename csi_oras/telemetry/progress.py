"""Progress: how far a transfer is, said in a way a person can use."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future

RECENT_SECONDS = 10
"""What counts for a rate: of a transfer that has slowed down, or was asleep, the beginning says nothing."""
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_size(count: float) -> str:
    """Return a number of bytes in the unit that reads best, in powers of 1,000 as transfers are measured."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004 (a thousand is what kilo means)
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.1f} {_UNITS[unit]}"  # noqa: PLR2004


class Counter:
    """Bytes of one blob: how many it has, how many are here, how many of them came over the network just now."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.fetched = 0
        self.started: float | None = None
        """The moment of the first byte."""
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: deque[list[int]] = deque(maxlen=RECENT_SECONDS + 1)
        """The last seconds in which bytes came, with their number."""

    def resume(self, count: int) -> None:
        """Set how many bytes were here before."""
        with self._lock:
            self.done = count

    def advance(self, count: int) -> None:
        """Count bytes that have just come."""
        now = self._clock()
        with self._lock:
            self.started = now if self.started is None else self.started
            self.done += count
            self.fetched += count
            if self._seconds and self._seconds[-1][0] == int(now):
                self._seconds[-1][1] += count
            else:
                self._seconds.append([int(now), count])

    def finish(self) -> None:
        """Count everything as here."""
        with self._lock:
            self.done = self.total

    def since(self, second: int) -> int:
        """Return the bytes that came in this second of the clock and after it."""
        with self._lock:
            return sum(count for when, count in self._seconds if when >= second)


def rate(counters: Iterable[Counter], now: float | None = None) -> float:
    """Return the bytes per second that came of late, `now` by the clock of the counters."""
    now = time.monotonic() if now is None else now
    begun = [counter for counter in counters if counter.started is not None]
    first = min((counter.started or 0.0 for counter in begun), default=now)
    second = int(now) - RECENT_SECONDS
    return sum(counter.since(second) for counter in begun) / max(now - max(second, first), 1.0)


class Progress:
    """The sum of counters; several artifacts that wait for one blob share its counter."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._counters: dict[Hashable, Counter] = {}
        self._names: dict[Hashable, str] = {}
        self.activity = ""
        """What is done once every byte is here, such as `unpacking 2 of 5`."""
        self.begun: Future[str] = Future()
        """Done when it is known that there is something to pull; never, where there is nothing.

        It says why that is pulled whole, where it was to come when it is read.
        """

    def begin(self, not_lazy: str = "") -> None:
        """Say that there is something to pull, and why it is not lazy if it was to be."""
        if not self.begun.done():  # another credential is tried on the same progress
            self.begun.set_result(not_lazy)

    @property
    def elapsed(self) -> float:
        """Seconds since it was begun to look for the artifact."""
        return self._clock() - self._started

    def join(self, key: Hashable, counter: Counter, name: str = "") -> None:
        """Wait for the bytes of `counter` too; it takes the place of an earlier one of the same key, and its name."""
        with self._lock:
            self._counters[key] = counter
            self._names[key] = name or self._names.get(key, "")

    @property
    def counters(self) -> list[Counter]:
        """The counters so far."""
        with self._lock:
            return list(self._counters.values())

    @property
    def named(self) -> list[tuple[Hashable, str, Counter]]:
        """The counters so far with their keys, and what they are of, for people."""
        with self._lock:
            return [(key, self._names[key], counter) for key, counter in self._counters.items()]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(counter.total for counter in self.counters)

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(counter.done for counter in self.counters)

    @property
    def fetched(self) -> int:
        """Bytes that came over the network."""
        return sum(counter.fetched for counter in self.counters)

    def describe(self) -> str:
        """Return `42 % (6.3 GB of 15.2 GB, 410 MB/s, about 22 s left)`, or what is done after that."""
        if self.activity:
            return self.activity
        total, done = self.total, self.done
        if not total:
            return "asking the registry"
        text = f"{100 * done // total} % ({human_size(done)} of {human_size(total)}"
        speed = rate(self.counters, self._clock())
        if speed >= 1:
            return f"{text}, {human_size(speed)}/s, about {max(total - done, 0) / speed:.0f} s left)"
        stalled = self.fetched and done < total
        return f"{text}, nothing came for {RECENT_SECONDS} s)" if stalled else f"{text})"
