"""Staging: private directories for what is in the making, on the store's own file system; never mounted.

Each is locked by its living maker. Whoever makes one first removes what the dead have left, of whatever process: a
store that is written to keeps nothing of a command or driver that was killed.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from csi_oras.store.paths import StatePaths

_NONE_OF_OURS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES})
"""What opening something in the directory says that is finished meanwhile, or is no directory: a link, say."""


@contextmanager
def staging(paths: StatePaths) -> Iterator[Path]:
    """Make a directory that only this process works on, and remove it with all that is left in it at the end."""
    sweep(paths)
    directory, lock = _new(paths)
    try:
        yield directory
    finally:
        _remove(directory)
        os.close(lock)


def sweep(paths: StatePaths) -> None:
    """Remove staging that a crash left behind; what a living process works on is locked."""
    for directory in paths.staging.iterdir():
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in _NONE_OF_OURS:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def empty(directory: Path) -> None:
    """Remove what is in a staging directory; a link is removed and never followed."""
    for path, _, _ in os.walk(directory):
        os.chmod(path, 0o700)  # noqa: PTH101 (os.walk gives text)
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)  # noqa: PTH108 (os.scandir gives text)


def _new(paths: StatePaths) -> tuple[Path, int]:
    """Return a new directory and the descriptor that keeps it locked; a sweep may take it before the lock does."""
    while True:
        directory = Path(tempfile.mkdtemp(dir=paths.staging))
        with suppress(FileNotFoundError):
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return directory, lock
            os.close(lock)


def _remove(directory: Path) -> None:
    for path, _, _ in os.walk(directory):
        os.chmod(path, 0o700)  # noqa: PTH101 (os.walk gives text)
    shutil.rmtree(directory, ignore_errors=True)
