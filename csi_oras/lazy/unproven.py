"""Unproven bytes: what a volume has shown of a blob before anything proved it, held against the whole blob later.

What was shown is right if the file that it was shown from has become the blob, or has the same bytes, and if no chunk
of it was rejected, and fetched once more, in the meantime, or wrongly so.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from csi_oras.store.extents import Extents
from csi_oras.store.ingest import Ingest

_BLOCK_BYTES = 1 << 20


class Verdict(Enum):
    """What became of unproven bytes: they are the blob's; they may be, of a file that is the blob's no more; or not."""

    RIGHT = auto()
    REPLACED = auto()
    WRONG = auto()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Bytes of the file with an inode, from `start` up to `end`, that a chunk index contradicted, and their SHA-256."""

    inode: int
    start: int
    end: int
    sha256: bytes

    def is_just(self, whole: int) -> bool:
        """Say whether the file `whole` has other bytes there: where only a hint was wrong, it has not."""
        return hashlib.sha256(os.pread(whole, self.end - self.start, self.start)).digest() != self.sha256


@dataclass(slots=True)
class _File:
    """A file that unproven bytes were shown from; `descriptor` is ours. One that a former process left is inherited."""

    descriptor: int
    is_inherited: bool = False
    shown: Extents = field(default_factory=Extents)
    rejections: list[Rejection] = field(default_factory=list)

    def judge(self, whole: int) -> Verdict:
        if any(rejection.is_just(whole) for rejection in self.rejections):
            return Verdict.WRONG
        if os.path.sameopenfile(self.descriptor, whole):
            return Verdict.REPLACED if self.is_inherited else Verdict.RIGHT
        return Verdict.REPLACED if self._equals(whole) else Verdict.WRONG

    def _equals(self, whole: int) -> bool:
        return all(
            os.pread(self.descriptor, min(_BLOCK_BYTES, end - place), place)
            == os.pread(whole, min(_BLOCK_BYTES, end - place), place)
            for start, end in self.shown.intervals
            for place in range(start, end, _BLOCK_BYTES)
        )


def _opened_anew(descriptor: int) -> int:
    """Open a file once more: a duplicate of the descriptor would hold the ingest's lock for as long as we look on."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


class Unproven:
    """What one volume has shown of one blob."""

    def __init__(self, remember: Callable[[str], None]) -> None:
        """Have `remember` told of each file, by its path, before anything of it is shown."""
        self._remember = remember
        self._lock = threading.Lock()
        self._files: dict[int, _File] = {}
        self.is_lost = False
        """Whether a former process has shown what nobody can look at any more."""

    def __bool__(self) -> bool:
        return bool(self._files) or self.is_lost

    def note(self, ingest: Ingest, position: int) -> tuple[int, int]:
        """Return from where and up to where all is there around an offset; all of that counts as shown.

        Raises:
            NoSpaceError, StoreBrokenError: it cannot be remembered.
        """
        inode = os.fstat(ingest.descriptor).st_ino
        if inode not in self._files:
            self._remember(ingest.path)
        with self._lock:
            file = self._files.setdefault(inode, _File(-1))
            if file.descriptor < 0:
                file.descriptor = _opened_anew(ingest.descriptor)
            while True:  # a chunk is forgotten before its rejection is told: one of the two is seen here
                around = ingest.around(position)
                file.shown.add(*around)
                if ingest.around(position) == around:
                    return around

    def inherit(self, path: str, blob_bytes: int) -> None:
        """Count as shown what a former process has noted as there in an ingest."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            self.is_lost = True
            return
        shown = Ingest.there(path, descriptor, blob_bytes)
        self._files[os.fstat(descriptor).st_ino] = _File(descriptor, is_inherited=True, shown=shown)

    def reject(self, rejection: Rejection) -> None:
        """Hear of bytes that were found to be wrong, or may be; those of other files are none of ours."""
        with self._lock:
            file = self._files.get(rejection.inode)
            if file and file.shown.meets(rejection.start, rejection.end):
                file.rejections.append(rejection)

    def settle(self, whole: int) -> Verdict:
        """Hold everything against the file of the whole blob, and let go of it."""
        with self._lock:
            files, self._files = self._files, {}
            verdicts = {file.judge(whole) for file in files.values()}
            verdicts |= {Verdict.REPLACED} if self.is_lost else set()
            self.is_lost = False
            for file in files.values():
                os.close(file.descriptor)
        return next((found for found in (Verdict.WRONG, Verdict.REPLACED) if found in verdicts), Verdict.RIGHT)

    def forget(self) -> None:
        """Let go of everything."""
        with self._lock:
            files, self._files = self._files, {}
        for file in files.values():
            os.close(file.descriptor)
