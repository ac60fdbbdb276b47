"""fs-verity: what is sealed is written by nobody any more, and what the disk changes in it is an error to its readers.

Sealed is what is committed, by a thread behind the pull, for the kernel reads all of a file to do it. Whatever has no
seal yet, because a process ended or too much came at once, gets it when it is verified the next time.
"""

import errno
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import InvalidConfigError
from csi_oras.store.paths import StatePaths
from csi_oras.store.staging import staging
from csi_oras.telemetry.logs import logger

_MOST_WAITING = 1 << 16
"""Files that wait for their seals: some 10 MiB of names."""
_UNABLE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})
_PASSING = frozenset({errno.EEXIST, errno.EBUSY, errno.ETXTBSY})
"""Somebody else seals it, or still has it open for writing."""


class Sealer:
    """Seals files where the file system can, and as node policy wants it: `auto`, `on` or `off`."""

    def __init__(self, paths: StatePaths, wanted: Callable[[], str]) -> None:
        self._paths = paths
        self._wanted = wanted
        self._obstacle: str | None = None
        self._complaints: set[int | None] = set()
        self._queue: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        threading.Thread(target=self._run, name="seal", daemon=True).start()

    def check(self) -> None:
        """Let a driver start whose file system can do what node policy insists on.

        Raises:
            InvalidConfigError: it cannot.
        """
        obstacle = self.obstacle() if self._wanted() != "off" else "off by node policy"
        if obstacle and self._wanted() == "on":
            cause = f"is on, and the file system of {self._paths.root} cannot seal files ({obstacle})"
            remedy = (
                "use btrfs, f2fs or ext4 with the feature verity, on a kernel with CONFIG_FS_VERITY, or set it to auto"
            )
            raise InvalidConfigError("node policy, store.fsVerity", cause, remedy)
        logger.info("fs-verity", sealing=not obstacle, cause=obstacle)

    def obstacle(self) -> str:
        """Return what keeps this file system from sealing a file, as it says itself; nothing if it can."""
        if self._obstacle is None:
            try:
                with staging(self._paths) as directory:
                    _probe(directory / "probe")
                self._obstacle = ""
            except OSError as error:
                if error.errno not in _UNABLE:  # a full disk may do better later
                    return os.strerror(error.errno or 0)
                self._obstacle = os.strerror(error.errno)
        return self._obstacle

    def add(self, path: str) -> None:
        """Have a file sealed soon that was committed and is written by nobody any more; never waits."""
        if self._wanted() != "off" and not self._obstacle:
            with suppress(queue.Full):
                self._queue.put_nowait(path)

    def seal(self, descriptor: int) -> bool:
        """Seal a file that is open for reading, and return whether that was done just now."""
        if self._wanted() == "off" or self.obstacle() or kernel.is_sealed(descriptor):
            return False
        try:
            kernel.seal(descriptor, _block_size(descriptor))
        except OSError as error:
            if error.errno not in _PASSING and error.errno not in self._complaints:
                self._complaints.add(error.errno)  # said once, for there may be a million files
                logger.warning("fs-verity: a file is not sealed, verification tries again", cause=error.strerror)
            return False
        return True

    def _run(self) -> None:
        while True:
            path = self._queue.get()
            with suppress(OSError):  # it is gone by now
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    self.seal(descriptor)
                finally:
                    os.close(descriptor)


def _probe(path: Path) -> None:
    """Seal a file that is made for it.

    Raises:
        OSError: as the file system says.
    """
    path.write_bytes(b"probe")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.seal(descriptor, _block_size(descriptor))
    finally:
        os.close(descriptor)


def _block_size(descriptor: int) -> int:
    """Return the block size that every kernel with fs-verity takes: that of the file system, at most a page."""
    return min(os.sysconf("SC_PAGE_SIZE"), os.fstat(descriptor).st_blksize)
