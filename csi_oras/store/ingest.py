"""Ingests: blobs in the making, invisible until they are committed, and resumed after a crash.

Each source of a blob has an ingest of its own, so that a slow or hostile one holds up nobody else's. It belongs to
one writer at a time, by a lock on its file, also among processes. Its extents say what is there; they are a hint
only, since the digest over the whole decides in the end.
"""

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from csi_oras.errors import SizeMismatchError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.store.extents import Extents
from csi_oras.store.paths import StatePaths, store_errors

_POLL_SECONDS = 0.1


class Ingest:
    """An open, locked file that takes a blob's bytes in any order, from many threads."""

    def __init__(self, path: str, blob: Descriptor, descriptor: int) -> None:
        self.path = path
        self.blob = blob
        self.descriptor = descriptor
        self.resumed = 0.0
        """When the bytes were last noted that somebody before us has left here, in seconds of the epoch."""
        self._is_kept = False
        self._extents = self._load()
        self._grown = threading.Condition()
        self._wanted: list[tuple[int, int]] = []
        """What somebody waits for."""

    @classmethod
    def open(cls, paths: StatePaths, blob: Descriptor, is_there: Callable[[], bool], source: str = "") -> Self | None:
        """Open the ingest of `blob` and go on from what it has, or return None once `is_there` says it is done.

        Waits while another process, or another credential, works on the blob of the same `source`.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        path = paths.ingest(blob.digest, source)
        while not is_there():
            with store_errors(f"ingest of {blob.digest}"):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if _lock(descriptor, path):
                    return cls(path, blob, descriptor)
                os.close(descriptor)
            time.sleep(_POLL_SECONDS)
        return None

    def _load(self) -> Extents:
        with suppress(FileNotFoundError):
            self.resumed = os.stat(self._extents_path).st_mtime
            self._is_kept = True
        return self.there(self.path, self.descriptor, self.blob.size)

    @staticmethod
    def there(path: str, descriptor: int, size: int) -> Extents:
        """Return what is noted as there of the ingest at `path`, which is open, of a blob of `size` bytes."""
        extents = Extents()
        try:
            with open(_extents_path(path)) as file:
                lines = file.read().split("\n")[:-1]  # a torn last line is no extent
        except (FileNotFoundError, UnicodeDecodeError):
            return extents
        there = min(os.fstat(descriptor).st_size, size)
        for line in lines:
            start, _, end = line.partition(" ")
            if start.isdigit() and end.isdigit():
                extents.add(int(start), min(int(end), there))
        return extents

    @property
    def _extents_path(self) -> str:
        return _extents_path(self.path)

    def write(self, view: memoryview, offset: int) -> None:
        """Put bytes where they belong.

        Raises:
            SizeMismatchError: there are more than the descriptor says.
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        end = offset + len(view)
        if end > self.blob.size:
            raise SizeMismatchError(
                f"blob {self.blob.digest}", f"has more than the {self.blob.size} bytes it should have"
            )
        with store_errors(f"ingest of {self.blob.digest}"):
            position = offset
            while position < end:
                position += os.pwrite(self.descriptor, view[position - offset :], position)
        with self._grown:
            self._extents.add(offset, end)
            if any(self._extents.covers(*wanted) for wanted in self._wanted):  # waking is dearer than looking
                self._grown.notify_all()

    def keep(self, start: int, end: int) -> None:
        """Remember across a crash that the bytes from `start` up to `end` are there."""
        with store_errors(f"ingest of {self.blob.digest}"), open(self._extents_path, "a") as file:
            # begin to write these bytes out while others come, so that the commit's sync finds little to do
            os.posix_fadvise(self.descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
            self._is_kept = True
            file.write(f"{start} {end}\n")

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The gaps that are still to be fetched."""
        with self._grown:
            return self._extents.missing(self.blob.size)

    @property
    def covered(self) -> int:
        """How many bytes are there."""
        with self._grown:
            return self._extents.covered

    def around(self, position: int) -> tuple[int, int]:
        """Return from where and up to where all is there around an offset."""
        with self._grown:
            return self._extents.around(position)

    def wait_beyond(self, position: int, timeout: float) -> int:
        """Wait until everything up to some offset beyond `position` is there, and return that offset.

        After `timeout` seconds it may be `position` itself.
        """
        with self._grown:
            self._wait(0, position + 1, timeout)
            return max(self._extents.frontier, position)

    def wait_covered(self, start: int, end: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the bytes from `start` up to `end`, and say whether they are there."""
        with self._grown:
            return self._wait(start, end, timeout)

    def _wait(self, start: int, end: int, timeout: float) -> bool:
        self._wanted.append((start, end))
        try:
            return self._grown.wait_for(lambda: self._extents.covers(start, end), timeout)
        finally:
            self._wanted.remove((start, end))

    @contextmanager
    def view(self, start: int, end: int) -> Iterator[memoryview]:
        """Show bytes that are there without copying them out of the page cache, in a with statement.

        Raises:
            StoreBrokenError: the store fails.
        """
        base = start - start % mmap.ALLOCATIONGRANULARITY
        with (
            store_errors(f"ingest of {self.blob.digest}"),
            mmap.mmap(self.descriptor, end - base, access=mmap.ACCESS_READ, offset=base) as window,
            memoryview(window) as shown,
            shown[start - base :] as view,
        ):
            yield view

    def forget(self, start: int, end: int) -> None:
        """Forget the bytes from `start` up to `end`: they are wrong, and will be written once more."""
        with self._grown:
            self._extents.remove(start, end)

    def discard(self) -> None:
        """Forget all bytes; the next attempt starts from nothing.

        It has another file, for whoever reads what was there must not see it change.
        """
        with self._grown, store_errors(f"ingest of {self.blob.digest}"):
            self._extents, self.resumed = Extents(), 0.0
            self.forget_extents()
            if os.fstat(self.descriptor).st_size:
                begun, self.descriptor = self.descriptor, _replaced(self.path)
                os.close(begun)

    def forget_extents(self) -> None:
        """Remove what only an unfinished blob needs."""
        if self._is_kept:
            with suppress(FileNotFoundError):
                os.unlink(self._extents_path)
            self._is_kept = False

    def remove(self) -> None:
        """Remove the ingest with all its bytes, and let go of it."""
        self.forget_extents()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.close()

    def abandon(self) -> None:
        """Let go of the file; it stays only if it has bytes that the next attempt can go on from."""
        if self._is_kept:
            self.close()
        else:
            self.remove()

    def close(self) -> None:
        """Let go of the file; its bytes stay for the next attempt."""
        os.close(self.descriptor)


def _extents_path(path: str) -> str:
    return f"{path}.extents"


def _replaced(path: str) -> int:
    """Put an empty file of ours, locked, in the place of an ingest."""
    fresh = f"{path}.fresh"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(fresh, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: str) -> bool:
    """Lock the file, unless another process has it or has just committed it from under us."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        return os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False
