"""Measures: how much pods have written, also while they write and put whatever they like in the way.

Nothing is opened by a path that a pod has made but beneath the descriptor of its root, and through no link.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from csi_oras import kernel

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_XDEV | kernel.RESOLVE_NO_MAGICLINKS


def measure(directory: Path, most: int | None = None) -> tuple[int, int]:
    """Return the bytes and the number of the files below a directory; of very many, what the first `most` names are.

    What is deeper than a path can say, or removed meanwhile, is passed over.

    Raises:
        OSError: the directory itself cannot be read.
    """
    root = os.open(directory, _DIRECTORY)
    size = files = 0
    try:
        for status in islice(_names(root), most):
            if stat.S_ISREG(status.st_mode):
                size += status.st_size
                files += 1
    finally:
        os.close(root)
    return size, files


def _names(root: int) -> Iterator[os.stat_result]:
    pending = ["."]
    while pending:
        path = pending.pop()
        try:
            here = kernel.open_beneath(root, path, _DIRECTORY, _RESOLVE)
        except OSError:  # there is something else now
            continue
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(status.st_mode):
                            pending.append(f"{path}/{entry.name}")
                        yield status
        finally:
            os.close(here)
