"""Which bytes of a file the driver has called local: those, and no others, may be read from it."""

from bisect import bisect_left, bisect_right


class Local:
    """Disjoint, sorted, half-open intervals of byte offsets, found by halving: a large file may have many."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Count the bytes from `start` up to `end` in."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def covers(self, start: int, end: int) -> bool:
        """Say whether all bytes from `start` up to `end` are among them."""
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and self._ends[place] >= end
