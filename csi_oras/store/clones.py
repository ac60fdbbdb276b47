"""Copies of files of the store; they share their blocks where the file system lets them (btrfs, xfs)."""

import errno
import os
import shutil
from pathlib import Path

from csi_oras.errors import StoreBrokenError

_PIECE_BYTES = 1 << 30
"""A multiple of every block size: only whole blocks are shared."""
_CANNOT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL})


def clone(source: str, name: str, mode: int, *, directory: int | None = None) -> int:
    """Make a copy of `source` at `name`, in a directory descriptor if there is one, and return its bytes.

    Raises:
        OSError: the store fails, or there is something at `name`.
        StoreBrokenError: not all of it could be read.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with Path(source).open("rb") as ours, os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb") as copy:
        try:
            while os.copy_file_range(ours.fileno(), copy.fileno(), _PIECE_BYTES):
                pass
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            shutil.copyfileobj(ours, copy, 1 << 20)
            copy.flush()
        size = os.fstat(copy.fileno()).st_size
        if size != os.fstat(ours.fileno()).st_size:
            raise StoreBrokenError(f"content {Path(source).name}", "cannot be copied whole", "look at the node's disk")
        os.fchmod(copy.fileno(), mode)
    return size
