"""What driver and mounter say to each other: one JSON object to a message, with the descriptors that go with it.

hold {tree, plan, driver} + device -> {pid}; list {after} -> {held: [{id, pid, restarts}], more} + their devices, in
order; drop {id} -> {}. What is not understood is answered with {error}. Only root is talked to: a descriptor of
`/dev/fuse` is all the files that pods believe.
"""

import array
import json
import os
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from csi_oras.errors import HostileContentError
from csi_oras.oci import document

MOST_DESCRIPTORS = 100
"""In one message; the kernel's own limit is 253 (SCM_MAX_FD)."""
_LARGEST_MESSAGE = 64 << 10
_SUBJECT = "message of driver or mounter"
_TREE = re.compile("[0-9a-f]{64}")
_CREDENTIALS = struct.Struct("=iII")
"""struct ucred: process, user, group."""


@dataclass(slots=True)
class Message:
    """What somebody said, and the descriptors that came with it, which are the receiver's."""

    content: dict[str, Any]
    descriptors: list[int] = field(default_factory=list)

    @property
    def tree(self) -> str:
        """The tree that it is about.

        Raises:
            UnacceptableError: it says none.
        """
        return check_tree(document.text(self.content, "id", _SUBJECT))

    def take(self) -> int:
        """Return the one descriptor that came.

        Raises:
            HostileContentError: none came, or several.
        """
        if len(self.descriptors) != 1:
            raise HostileContentError(_SUBJECT, f"comes with {len(self.descriptors)} descriptors and not with one")
        return self.descriptors.pop()

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def check_tree(name: str) -> str:
    """Return the name of a tree.

    Raises:
        HostileContentError: it is none.
    """
    if not _TREE.fullmatch(name):
        raise HostileContentError(_SUBJECT, "names a tree by something else than 64 hexadecimal digits")
    return name


def send(connected: socket.socket, content: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message.

    Raises:
        OSError: nobody listens, or not now.
    """
    socket.send_fds(connected, [json.dumps(content).encode()], descriptors)


def receive(connected: socket.socket) -> Message | None:
    """Return the next message, or None where the other side has ended.

    Raises:
        OSError: the connection fails, or nothing comes in time.
        UnacceptableError: it is not one of ours.
    """
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)
    content, ancillary, flags, _ = connected.recvmsg(_LARGEST_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    message = Message({}, _descriptors(ancillary))
    try:
        message.content = _parse(content, flags)
    except BaseException:
        message.close()
        raise
    if content:
        return message
    message.close()
    return None


def is_root(connected: socket.socket) -> bool:
    """Say whether root is on the other side."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == 0)


def _parse(content: bytes, flags: int) -> dict[str, Any]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise HostileContentError(_SUBJECT, "is too large")
    return document.parse_object(content, _SUBJECT) if content else {}


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
