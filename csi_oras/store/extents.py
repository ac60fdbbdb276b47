"""Extents: which bytes of an unfinished blob are there."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Extents:
    """Disjoint, sorted, half-open intervals of byte offsets."""

    intervals: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, end: int) -> None:
        """Count the bytes from `start` up to `end` in."""
        if start >= end:
            return
        kept = []
        for left, right in self.intervals:
            if right < start or left > end:
                kept.append((left, right))
            else:
                start, end = min(start, left), max(end, right)
        kept.append((start, end))
        self.intervals = sorted(kept)

    def missing(self, size: int) -> list[tuple[int, int]]:
        """Return the gaps below `size`."""
        gaps, position = [], 0
        for start, end in self.intervals:
            if position < min(start, size):
                gaps.append((position, min(start, size)))
            position = end
        if position < size:
            gaps.append((position, size))
        return gaps

    def around(self, position: int) -> tuple[int, int]:
        """Return the interval that holds the byte at `position`, or an empty one there."""
        return next((found for found in self.intervals if found[0] <= position < found[1]), (position, position))

    def covers(self, start: int, end: int) -> bool:
        """Say whether all bytes from `start` up to `end` are there."""
        return start >= end or self.around(start)[1] >= end

    def meets(self, start: int, end: int) -> bool:
        """Say whether any byte from `start` up to `end` is there."""
        return any(left < end and start < right for left, right in self.intervals)

    def remove(self, start: int, end: int) -> None:
        """Count the bytes from `start` up to `end` out."""
        if start >= end:
            return
        parts = [
            part for left, right in self.intervals for part in ((left, min(right, start)), (max(left, end), right))
        ]
        self.intervals = [(left, right) for left, right in parts if left < right]

    @property
    def frontier(self) -> int:
        """Up to where everything is there."""
        return self.intervals[0][1] if self.intervals and self.intervals[0][0] == 0 else 0

    @property
    def covered(self) -> int:
        """How many bytes are there."""
        return sum(end - start for start, end in self.intervals)
