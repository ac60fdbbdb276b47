"""Walks: what is in a directory that a pod wrote into, or in the tree that it was given.

Whoever wrote there is hostile. Every directory is opened anew from the root's descriptor, beneath it, through no link
and onto no other file system; entries are looked at and never opened, and a file that is to be read is opened as a
mere place first, so that no FIFO blocks and no device notices. Nothing is held but one directory's entries, and no more
of them than the limits allow.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from csi_oras import kernel
from csi_oras.errors import ContentChangedError, LimitExceededError, StoreBrokenError, printable
from csi_oras.oci.name import METADATA, Name, UnsafeNameError
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Change, Directory, File, Found, Kept, Link, Origin, Path, Special, Whiteout

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_PHANTOM_BYTES = 64 << 30
"""Bytes that may be read without being on the disk, as holes and further hard links, where no limit of size says."""
_BLOCK_BYTES = 512
_RESOLVE = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV | kernel.RESOLVE_NO_MAGICLINKS
_EXECUTABLE = 0o111
_SPECIAL = {
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a character device",
    stat.S_IFBLK: "is a block device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkLimits:
    """How many files and directories there may be, and how many bytes in the files to be pushed (0: no limit)."""

    entries: int
    size: int


def written(root: int, selection: Selection, limits: WalkLimits, subject: str) -> Iterator[Change]:
    """Yield what is in the upper directory of an overlay, open as `root`: a directory before what is in it.

    Directories below which nothing is selected are not looked into. What is not selected is yielded and does not count
    as bytes.

    Raises:
        LimitExceededError: there is more than `limits` allow.
        ContentChangedError: it changed meanwhile.
        StoreBrokenError: it cannot be read.
    """
    count = _Count(limits, selection, subject)
    return _Walk(root, Origin.UPPER, subject, count.take).changes(selection)


def given(root: int, selection: Selection, kept: frozenset[Path], subject: str) -> Iterator[Change]:
    """Yield what is in a tree of the store but metadata.

    Directories that are `kept`, and those below which nothing is selected, are not looked into.

    Raises:
        StoreBrokenError: it cannot be read.
    """
    walk = _Walk(root, Origin.BASE, subject, lambda _path, _status: None)
    return (change for change in walk.changes(selection, kept) if change[0] != (METADATA,))


def named(root: int, at: Path, subject: str) -> Iterator[Change]:
    """Yield what is in a directory that is no overlay's, open as `root`, as what is at and below `at`.

    Raises:
        ContentChangedError: it changed meanwhile.
        StoreBrokenError: it cannot be read.
    """
    for path, found in _Walk(root, Origin.UPPER, subject, lambda _path, _status: None, at).changes(Selection()):
        if isinstance(found, Whiteout):
            yield path, Special(Origin.UPPER, _SPECIAL[stat.S_IFCHR])
        else:
            yield path, Directory(Origin.UPPER) if isinstance(found, Directory) else found


def as_file(origin: Origin, status: os.stat_result) -> File:
    """Return what a regular file is."""
    is_executable = bool(status.st_mode & _EXECUTABLE)
    return File(origin, status.st_ino, status.st_size, status.st_mtime_ns, is_executable)


class _Count:
    """What was found so far, held to the limits."""

    def __init__(self, limits: WalkLimits, selection: Selection, subject: str) -> None:
        self._limits = limits
        self._selection = selection
        self._subject = subject
        self._entries = self._size = self._on_disk = 0
        self._linked: set[int] = set()

    def take(self, path: Path, status: os.stat_result) -> None:
        """Count what is at `path`."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._beyond(f"{self._limits.entries:,} files and directories", "writeBack.maxFiles")
        if not stat.S_ISREG(status.st_mode) or self._selection.refusal(Name(path)):
            return
        self._size += status.st_size
        if status.st_ino not in self._linked:
            self._on_disk += status.st_blocks * _BLOCK_BYTES
        if status.st_nlink > 1:
            self._linked.add(status.st_ino)
        if self._limits.size and self._size > self._limits.size:
            raise self._beyond(f"{self._limits.size:,} bytes", "writeBack.maxBytes")
        if not self._limits.size and self._size - self._on_disk > MOST_PHANTOM_BYTES:
            raise self._beyond(f"{MOST_PHANTOM_BYTES:,} bytes in holes and hard links", "set writeBack.maxBytes")

    def _beyond(self, what: str, setting: str) -> LimitExceededError:
        remedy = setting if setting.startswith("set") else f"raise {setting}"
        return LimitExceededError(
            self._subject,
            f"the pod wrote more than the {what} that node policy allows to push",
            f"write less, leave some of it out with writeBackExclude, or {remedy} in the node policy",
        )


class _Walk:
    """What is in the directory that is open as `root`, shown at `at`."""

    def __init__(
        self, root: int, origin: Origin, subject: str, take: Callable[[Path, os.stat_result], None], at: Path = ()
    ) -> None:
        self._root = root
        self._at = at
        self._origin = origin
        self._subject = subject
        self._take = take
        self._device = os.fstat(root).st_dev

    def changes(self, selection: Selection, kept: frozenset[Path] = frozenset()) -> Iterator[Change]:
        """Yield all there is, the volume's root itself left out."""
        pending: list[Path] = [self._at]
        while pending:
            directory = pending.pop()
            with _read_errors(self._subject):
                is_opaque, entries = self._visit(directory)
            if directory:
                yield directory, Directory(self._origin, is_opaque)
            for name, found in entries:
                path = (*directory, name)
                if path in kept:
                    yield path, Kept()
                elif isinstance(found, Directory) and not selection.passes_over(Name(path)):
                    pending.append(path)
                else:
                    yield path, found

    def _visit(self, directory: Path) -> tuple[bool, list[tuple[str, Found]]]:
        """Return whether a directory is opaque, and what is in it, in the reverse order of the names."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        here = kernel.open_beneath(self._root, "/".join(directory[len(self._at) :]) or ".", flags, _RESOLVE)
        try:
            is_opaque = self._origin is Origin.UPPER and _is_opaque(here)
            with os.scandir(here) as entries:
                found = [(entry.name, self._found((*directory, entry.name), entry, here)) for entry in entries]
        finally:
            os.close(here)
        return is_opaque, sorted(found, key=itemgetter(0), reverse=True)

    def _found(self, path: Path, entry: "os.DirEntry[str]", here: int) -> Found:
        status = entry.stat(follow_symlinks=False)
        self._take(path, status)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return Whiteout()
        if reason := self._refusal(path, status):
            return Special(self._origin, reason)
        if stat.S_ISDIR(status.st_mode):
            return Directory(self._origin)
        if stat.S_ISLNK(status.st_mode):
            return Link(self._origin, os.readlink(entry.name, dir_fd=here))
        return as_file(self._origin, status)

    def _refusal(self, path: Path, status: os.stat_result) -> str:
        """Return why what is at `path` cannot be carried, whatever is in it, or nothing."""
        if reason := _SPECIAL.get(stat.S_IFMT(status.st_mode)):
            return reason
        if status.st_dev != self._device:
            return "is on another file system"
        try:
            Name.parse("/".join(path))
        except UnsafeNameError as error:
            return f"has a name that {error}"
        return ""


def open_file(root: int, path: Path, file: File, subject: str) -> "SourceFile":
    """Open a file that a walk of `root` has found, or that `root` is, if `path` is empty.

    Raises:
        ContentChangedError: something else is there now.
        StoreBrokenError: it cannot be read.
    """
    subject = f'{subject}, file "{printable("/".join(path), 200)}"' if path else subject
    with _read_errors(subject):
        flags = os.O_PATH | os.O_NOFOLLOW
        place = kernel.open_beneath(root, "/".join(path), flags, _RESOLVE) if path else os.dup(root)
        try:
            _check_unchanged(os.fstat(place), file, subject)
            descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(place)
    return SourceFile(descriptor, file, subject)


class SourceFile(io.RawIOBase):
    """A file of a volume, which reads as the walk has found it, from the first to the last byte, or not at all."""

    def __init__(self, descriptor: int, file: File, subject: str) -> None:
        self._file = io.FileIO(descriptor)
        self._expected = file
        self._subject = subject

    def readable(self) -> bool:
        """Say that it is one to read."""
        return True

    def seekable(self) -> bool:
        """Say that it may be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go on reading from elsewhere."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill `buffer` as far as the file goes.

        Raises:
            ContentChangedError: the file changed since the walk; no later than with its last byte.
            StoreBrokenError: it cannot be read.
        """
        with _read_errors(self._subject):
            count = self._file.readinto(memoryview(buffer).cast("B")) or 0
            if not count or self._file.tell() >= self._expected.size:
                _check_unchanged(os.fstat(self._file.fileno()), self._expected, self._subject)
        return count

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()
        super().close()


def _check_unchanged(status: os.stat_result, file: File, subject: str) -> None:
    now = (stat.S_IFMT(status.st_mode), status.st_ino, status.st_size, status.st_mtime_ns)
    if now != (stat.S_IFREG, file.inode, file.size, file.modified):
        raise _changed(subject)


def _changed(subject: str) -> ContentChangedError:
    return ContentChangedError(
        subject, "changed while it was read; somebody still writes to it", "it can be pushed when it stays as it is"
    )


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


@contextmanager
def _read_errors(subject: str) -> Iterator[None]:
    """Translate what the operating system says: what the walk has seen and is not there any more has changed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise _changed(subject) from error
        raise StoreBrokenError(subject, f"cannot be read ({error.strerror})", "look at the node's disk") from error
