"""Files of the node that policy or a flag names: nobody waits for what stands under such a name.

A FIFO would hold up who opens it until somebody writes, a device might never end, and some of these files are read
on the threads that all calls share. Links are followed: what the kubelet mounts of secrets and config maps are links.
A network file system whose server is dead holds up whoever touches it; no flag helps against that.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@contextmanager
def opened(path: str | Path, largest: int) -> Iterator[int]:
    """Open a regular file of at most `largest` bytes.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError:  # a NUL, or what is no text
        raise OSError(errno.EINVAL, "it is no path") from None
    try:
        _check(os.fstat(descriptor), largest)
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: str | Path, largest: int) -> bytes:
    """Return what a regular file of at most `largest` bytes holds.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    with opened(path, largest) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(largest)


def _check(status: os.stat_result, largest: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest} bytes")
