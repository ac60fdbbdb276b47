"""The reserve: room that is taken while there is some, and given up when others have filled the disk.

It lets the database take what it needs to go on (`Database.reserve`): what is recorded is small, and a pod whose
artifact is here needs no more; nor does one that ends, which is what frees room.
"""

import os
from contextlib import suppress

from csi_oras.store.paths import StatePaths

_BYTES = 8 << 20


class Reserve:
    """A file that stands for room."""

    def __init__(self, paths: StatePaths) -> None:
        self._path = paths.root / "reserve"

    def fill(self) -> None:
        """Take the room."""
        if self._is_full():
            return
        with suppress(OSError):  # a file system that cannot, or others were faster: the next time
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _BYTES)
            finally:
                os.close(descriptor)

    def _is_full(self) -> bool:
        try:
            return self._path.stat().st_size >= _BYTES
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the room up."""
        with suppress(OSError):
            self._path.unlink()
