"""Progress: how far a transfer is, said in a way a person can use."""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future

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

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.fetched = 0
        self._lock = threading.Lock()

    def resume(self, count: int) -> None:
        """Set how many bytes were here before."""
        with self._lock:
            self.done = count

    def advance(self, count: int) -> None:
        """Count bytes that have just come."""
        with self._lock:
            self.done += count
            self.fetched += count

    def finish(self) -> None:
        """Count everything as here."""
        with self._lock:
            self.done = self.total


class Progress:
    """The sum of counters; several artifacts that wait for one blob share its counter."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._counters: dict[Hashable, Counter] = {}
        self.activity = ""
        """What is done once every byte is here, such as `unpacking 2 of 5`."""
        self.begun: Future[None] = Future()
        """Done when it is known that there is something to pull; never, where there is nothing."""

    def begin(self) -> None:
        """Say that there is something to pull."""
        if not self.begun.done():  # another credential is tried on the same progress
            self.begun.set_result(None)

    def join(self, key: Hashable, counter: Counter) -> None:
        """Wait for the bytes of `counter` too; it takes the place of an earlier one of the same key."""
        with self._lock:
            self._counters[key] = counter

    @property
    def counters(self) -> list[Counter]:
        """The counters so far."""
        with self._lock:
            return list(self._counters.values())

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
        rate = self.fetched / max(self._clock() - self._started, 0.001)
        text = f"{100 * done // total} % ({human_size(done)} of {human_size(total)}"
        if rate < 1:
            return f"{text})"
        return f"{text}, {human_size(rate)}/s, about {max(total - done, 0) / rate:.0f} s left)"
