"""Stragglers: connections that give far less than the others of the same blob, and are better asked for again.

Large stores answer from many machines, of which one is a hundred times slower than the rest now and then, and the
whole blob waits for it. The only measure is what the others give: where all are slow, nobody is cut off.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from csi_oras.errors import RegistryUnavailableError
from csi_oras.registry.pace import Peer

WINDOW_SECONDS = 5.0
"""How long a connection is watched before it is judged."""
MOST_CUTS = 8
"""How many connections of one blob are cut off at most."""
_FAR_LESS = 8
"""So many times less than the mean of the others is far less: shares of one line differ by less."""
_MOSTLY = 0.8
"""What part of a window must have been spent waiting: a slow disk, or our own limit, is no fault of the peer."""


class CutOffError(Exception):
    """The connection was cut off; what is missing is to be asked for again."""


class _Mark(NamedTuple):
    when: float
    received: int = 0
    peer: Peer | None = None
    waited: float = 0.0


class Reader:
    """One who fetches ranges of a blob, over one connection after the other."""

    def __init__(self, lock: threading.Lock, now: float) -> None:
        self._lock = lock
        self._began = now
        self._mark = _Mark(now)
        self._received = 0
        self._peer: Peer | None = None
        self._is_cut_off = False
        self._rate: float | None = None

    @contextmanager
    def reading(self, peer: Peer) -> Iterator[None]:
        """Mark a block in which `peer` is read.

        Raises:
            CutOffError: it broke off because it was cut off.
        """
        with self._lock:
            self._peer, self._is_cut_off = peer, False
        try:
            yield
        except RegistryUnavailableError as error:
            if self._is_cut_off:
                raise CutOffError from error
            raise
        finally:
            with self._lock:
                self._received += peer.received
                self._peer = None

    def end(self, now: float) -> None:
        """Keep the rate of all that it has fetched."""
        with self._lock:
            self._rate = self._received / max(now - self._began, 0.001)

    def measure(self, now: float) -> tuple[float, bool]:
        """Return the bytes per second since the last measure, and whether it was mostly one peer that we waited for."""
        if self._rate is not None:
            return self._rate, False
        before, peer, received, waited = self._mark, self._peer, self._received, 0.0
        if peer:
            received, waited = received + peer.received, peer.waited
        self._mark = _Mark(now, received, peer, waited)
        seconds = max(now - before.when, 0.001)
        waited -= before.waited if peer is before.peer else 0.0
        return (received - before.received) / seconds, waited >= _MOSTLY * seconds

    def cut_off(self) -> None:
        """End what its connection sends."""
        if self._peer:
            self._is_cut_off = True
            self._peer.cut_off()


class Stragglers:
    """Watches those who fetch ranges of one blob."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._readers: list[Reader] = []
        self._look = clock() + WINDOW_SECONDS
        self._cuts_left = MOST_CUTS

    @contextmanager
    def watched(self) -> Iterator[Reader]:
        """Watch one more in a block."""
        reader = Reader(self._lock, self._clock())
        with self._lock:
            self._readers.append(reader)
        try:
            yield reader
        finally:
            reader.end(self._clock())

    def look(self) -> None:
        """Cut off who is far behind the others, if it is time to look."""
        now = self._clock()
        if now < self._look:
            return
        self._look = now + WINDOW_SECONDS
        with self._lock:
            measures = [reader.measure(now) for reader in self._readers]
            rates = [rate for rate, _ in measures]
            for number, (rate, has_waited) in enumerate(measures):
                others = rates[:number] + rates[number + 1 :]
                is_behind = has_waited and bool(others) and rate * _FAR_LESS < statistics.fmean(others)
                if is_behind and self._cuts_left:
                    self._cuts_left -= 1
                    self._readers[number].cut_off()
