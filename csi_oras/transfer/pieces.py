"""Pieces: what is missing of a blob, dealt out to those who fetch it.

What somebody waits for is claimed by who waits, and fetched at once; what will be wanted next is dealt before the rest,
and the rest lowest first, as long as the flow is on.
"""

import threading
from collections.abc import Iterable

_Piece = tuple[int, int]
"""Half-open, in bytes."""


class Pieces:
    """The gaps of an ingest, in pieces."""

    def __init__(self, missing: Iterable[_Piece], *, size: int, parallel: int) -> None:
        """Deal pieces of up to `size` bytes to at most `parallel` writers."""
        self._flow = threading.Condition()
        self._is_flowing = True
        self._is_stopped = False
        self._size = size
        self._rest = [piece for gap in missing for piece in _cut(gap, size)]
        self._next: list[_Piece] = []
        self.parallel = min(parallel, len(self._rest))

    def take(self) -> _Piece | None:
        """Return the next piece, once the flow is on, or None when there are no more or somebody failed."""
        with self._flow:
            while not self._is_stopped:
                if self._next:
                    return self._next.pop(0)
                if not self._rest:
                    return None
                if self._is_flowing:
                    return self._rest.pop(0)
                self._flow.wait()
            return None

    def claim(self, start: int, end: int) -> list[_Piece]:
        """Return what nobody has taken yet of the bytes from `start` up to `end`; it is the caller's to fetch now."""
        with self._flow:
            self._next, claimed = _split(self._next, start, end)
            self._rest, more = _split(self._rest, start, end)
        return sorted(claimed + more)

    def advance(self, start: int, end: int) -> None:
        """Deal what nobody has taken yet of the bytes from `start` up to `end` before the rest."""
        with self._flow:
            self._rest, advanced = _split(self._rest, start, end)
            self._next += advanced
            self._flow.notify_all()

    def give_back(self, start: int, end: int) -> None:
        """Deal again what could not be fetched."""
        with self._flow:
            self._rest = sorted([*self._rest, (start, end)])
            self._flow.notify()

    def stop(self) -> None:
        """Deal out no more."""
        with self._flow:
            self._is_stopped = True
            self._flow.notify_all()

    def flow(self, *, on: bool) -> None:
        """Hold back the rest, or deal it out again."""
        with self._flow:
            if on and not self._is_flowing:
                self._flow.notify_all()
            self._is_flowing = on

    @property
    def stopped(self) -> bool:
        """Whether it is over."""
        return self._is_stopped


def _cut(gap: _Piece, size: int) -> list[_Piece]:
    start, end = gap
    return [(position, min(position + size, end)) for position in range(start, end, size)]


def _split(pieces: list[_Piece], start: int, end: int) -> tuple[list[_Piece], list[_Piece]]:
    """Return what of `pieces` lies outside of a range, and what within; both stay in their order."""
    outside: list[_Piece] = []
    within: list[_Piece] = []
    for left, right in pieces:
        first, last = max(left, start), min(right, end)
        if first >= last:
            outside.append((left, right))
            continue
        within.append((first, last))
        outside += [piece for piece in ((left, first), (last, right)) if piece[0] < piece[1]]
    return outside, within
