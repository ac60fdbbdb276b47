"""Opened files: a descriptor that the driver handed out, and what of it may be read."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from csi_oras.fuse.local import Local

_USUAL_READ = 1 << 20
"""What the kernel asks for at most, unless somebody has raised fs.fuse.max_pages_limit."""
_MOST_THREADS = 16


class Means:
    """What all files are read with: a buffer, since a fresh one costs more than what it is filled with, and threads."""

    def __init__(self) -> None:
        # private: processes are forked from another; it begins with a page, from which the kernel copies faster
        self.buffer = memoryview(mmap.mmap(-1, _USUAL_READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.threads = trio.CapacityLimiter(_MOST_THREADS)


class Opened:
    """One file of the store, open for reading."""

    def __init__(self, descriptor: int, inode: int, means: Means) -> None:
        """Own a descriptor, of a file with an inode."""
        self._descriptor = descriptor
        self._means = means
        self._readers = 0
        self._is_closed = False
        self.inode = inode
        self.local = Local()
        self.announced = Local()
        self._grown = trio.Event()

    def add(self, start: int, end: int) -> None:
        """Count bytes as local."""
        self.local.add(start, end)
        self._grown.set()
        self._grown = trio.Event()

    async def wait(self, start: int, end: int) -> None:
        """Return when bytes are local."""
        while not self.local.covers(start, end):
            await self._grown.wait()

    def read_cached(self, start: int, end: int) -> memoryview | None:
        """Return bytes that are in the page cache, to be used before the next read; None where they are not."""
        wanted = end - start
        buffer = self._means.buffer[:wanted] if wanted <= _USUAL_READ else memoryview(bytearray(wanted))
        try:
            return buffer if os.preadv(self._descriptor, [buffer], start, os.RWF_NOWAIT) == wanted else None
        except OSError:  # EAGAIN; of anything worse, the read from the disk tells
            return None

    async def read(self, start: int, end: int) -> bytes:
        """Return bytes from the disk, fewer at the end of the file.

        Raises:
            OSError: the disk fails.
        """
        with self._using():
            return await trio.to_thread.run_sync(_read_all, self._descriptor, start, end, limiter=self._means.threads)

    def close(self) -> None:
        """Let the file go when nobody reads it any more."""
        self._is_closed = True
        self._close_unused()

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._close_unused()

    def _close_unused(self) -> None:
        if self._is_closed and not self._readers:
            os.close(self._descriptor)


def _read_all(descriptor: int, start: int, end: int) -> bytes:
    """Read up to where the file ends; a single call may bring less for other reasons."""
    content = more = os.pread(descriptor, end - start, start)
    while more and len(content) < end - start:
        more = os.pread(descriptor, end - start - len(content), start + len(content))
        content += more
    return content
