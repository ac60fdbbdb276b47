"""The connection to the kernel, which somebody else has begun: it is taken over.

libfuse answers nothing before it has read an INIT, and the kernel sends one only once. So it is given one that we
made, through a socket; while it is at it, the socket is replaced by the device under its own number. What it answers
goes to the kernel, which knows of no such request and drops it. Then the kernel is asked for all that a predecessor
had read and not answered (Linux 6.9).
"""

import errno
import os
import socket
import stat
import struct
from contextlib import suppress

from csi_oras.errors import InvalidRequestError
from csi_oras.telemetry.logs import logger

_DEVICE = os.makedev(10, 229)
"""/dev/fuse (Linux, admin-guide/devices.txt)."""
_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=5I44x")
_INVAL_INODE = struct.Struct("=Qqq")
_INIT, _NOTIFY_INVAL_INODE, _NOTIFY_RESEND = 26, 2, 7
_UNIQUE = 1 << 62
"""The number of our request; the kernel counts its own from 2."""
_MAJOR, _MINOR = 7, 38
_READ_AHEAD = 1 << 20
_ASYNC_READ, _BIG_WRITES, _READDIRPLUS, _ASYNC_DIO, _MAX_PAGES = 1 << 0, 1 << 5, 1 << 13, 1 << 15, 1 << 22
"""What the kernel is to have offered; what was agreed upon is for whoever answered its own INIT to say."""
_ENDED = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.EPERM})


class Connection:
    """One descriptor of the device, on its way to libfuse, and what is said to the kernel past it."""

    def __init__(self, device: int) -> None:
        """Take over the connection of a descriptor of `/dev/fuse`, which is closed in the end.

        Raises:
            InvalidRequestError: it is none.
        """
        self.is_asked_again = True
        """Whether the kernel sends again what was not answered."""
        self._device = device
        _check(device)
        os.set_blocking(device, False)  # a request may be gone between its announcement and the read
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._number = ours.detach()
        self._theirs.send(_synthetic_init())

    @property
    def path(self) -> str:
        """What libfuse is to open."""
        return f"/dev/fd/{self._number}"

    def complete(self) -> None:
        """Put the device where libfuse reads and writes: it has the synthetic INIT, and has read nothing else.

        Raises:
            OSError: that is not possible.
        """
        os.dup2(self._device, self._number, inheritable=False)
        os.close(self._device)
        self._theirs.close()
        self.ask_again()

    def ask_again(self) -> None:
        """Have the kernel send once more what was read and not answered.

        Raises:
            OSError: the kernel fails.
        """
        if not self.is_asked_again:
            return
        try:
            self._notify(_NOTIFY_RESEND, b"")
        except OSError as error:
            if error.errno == errno.EINVAL:
                self.is_asked_again = False
                logger.warning("the kernel does not send again what a predecessor had begun: it takes Linux 6.9")
            elif error.errno not in _ENDED:  # which the next read says better
                raise

    def forget_cached(self, inode: int) -> None:
        """Have the kernel drop what it has read of a file.

        It waits for reads of it that are not answered, out of reach of any signal: let none of them wait for long.
        """
        with suppress(OSError):  # it knows of no such file, or the connection has ended
            self._notify(_NOTIFY_INVAL_INODE, _INVAL_INODE.pack(inode, 0, 0))

    def _notify(self, code: int, body: bytes) -> None:
        os.write(self._number, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), code, 0) + body)


def _check(device: int) -> None:
    try:
        found = os.fstat(device)
    except OSError as error:
        raise InvalidRequestError(f"descriptor {device}", f"cannot be used ({error.strerror})") from error
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _DEVICE:
        raise InvalidRequestError(f"descriptor {device}", "is not one of /dev/fuse")


def _synthetic_init() -> bytes:
    offered = _ASYNC_READ | _BIG_WRITES | _READDIRPLUS | _ASYNC_DIO | _MAX_PAGES
    body = _INIT_IN.pack(_MAJOR, _MINOR, _READ_AHEAD, offered, 0)
    return _IN_HEADER.pack(_IN_HEADER.size + len(body), _INIT, _UNIQUE, 0, 0, 0, 0, 0, 0) + body
