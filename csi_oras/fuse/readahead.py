"""Read-ahead: which bytes of a file will be read next, from those that were.

A file is read in streams: each goes on where an earlier read of it ended. What it will read is announced in windows
that double as long as it goes on, so that a few bytes here and there announce nothing.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

FIRST, LARGEST = 2 << 20, 128 << 20
"""The windows, in bytes; the largest are as many ranges as are fetched of a blob at a time."""
_SLACK = 1 << 20
"""The kernel's own read-ahead comes in requests of up to this size, and they overtake each other."""
_MOST_STREAMS, _MOST_FILES = 8, 1024


class Seen(NamedTuple):
    """Whether a read had been announced as a whole, and what should be announced now, if anything."""

    was_expected: bool
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class _Stream:
    end: int
    announced: int
    window: int = FIRST

    def goes_on(self, start: int) -> bool:
        return abs(start - self.end) <= _SLACK

    def advance(self, end: int, size: int) -> tuple[int, int]:
        """Return what to announce when the stream was read up to `end`: nothing while half a window is still ahead."""
        self.end = max(self.end, end)
        if self.announced - self.end >= self.window // 2:
            return 0, 0
        start, self.announced = max(self.announced, self.end), min(self.end + self.window, size)
        self.window = min(2 * self.window, LARGEST)
        return start, self.announced


class ReadAhead:
    """The streams of the files that were read last."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, list[_Stream]] = OrderedDict()

    def observe(self, inode: int, start: int, end: int, size: int) -> Seen:
        """Take note of a read from `start` up to `end` of a file of `size` bytes."""
        streams = self._streams(inode)
        stream = next((found for found in streams if found.goes_on(start)), None)
        if stream is None:
            streams.append(_Stream(end, end))
            del streams[:-_MOST_STREAMS]
            return Seen(was_expected=False)
        streams.remove(stream)
        streams.append(stream)
        was_expected = end <= stream.announced and stream.window > FIRST
        if end <= stream.end:
            return Seen(was_expected)
        first, last = stream.advance(end, size)
        return Seen(was_expected, first, last) if first < last else Seen(was_expected)

    def _streams(self, inode: int) -> list[_Stream]:
        streams = self._files.setdefault(inode, [])
        self._files.move_to_end(inode)
        if len(self._files) > _MOST_FILES:
            self._files.popitem(last=False)
        return streams
