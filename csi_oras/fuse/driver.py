"""The driver's socket: asks for bytes, gets descriptors, and hears which blobs are wrong.

There is one connection, begun again whenever it ends: a driver that is restarted is a pause. What was asked for and
not answered is asked for again. How long anybody waits is for the caller to say.
"""

import array
import json
import math
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import trio

from csi_oras.errors import CsiOrasError, HostileContentError, NoSpaceError, UnobtainableError
from csi_oras.fuse import messages
from csi_oras.oci.digest import Digest
from csi_oras.telemetry.logs import logger

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to connect, the last one from then on."""
_MOST_WAITING = 256
"""Messages that the driver does not take yet; what needs no answer is dropped then."""
_MOST_DESCRIPTORS = 4
_SEND_SECONDS = 10
_CUT = b"cut off"
"""What a message that is too large counts as: no JSON."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes that are local: from `start` up to `end` of the file with `inode`, open where the asker has another."""

    start: int
    end: int
    inode: int
    descriptor: int | None


@dataclass(slots=True)
class _Need:
    """Somebody who waits."""

    message: dict[str, Any]
    still_coming: Callable[[], None]
    outcome: Answer | messages.Refused | None = None
    decided: trio.Event = field(default_factory=trio.Event)

    def decide(self, outcome: Answer | messages.Refused) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.decided.set()


class Driver:
    """The connection to the driver, on behalf of one tree."""

    def __init__(self, path: Path, tree: str, hear: Callable[[messages.Unasked], None]) -> None:
        """Talk to the socket at `path`; `hear` takes what it says without being asked."""
        self._path = path
        self._hello = {"op": "hello", "tree": tree, "understands": ["wait", "drop"]}
        self._hear_unasked = hear
        self._numbers = count(1)
        self._needs: dict[int, _Need] = {}
        self._outgoing: trio.MemorySendChannel[dict[str, Any]] | None = None
        self._all_sent = trio.Event()

    async def need(self, blob: Digest, start: int, end: int, have: int, *, still_coming: Callable[[], None]) -> Answer:
        """Return when the bytes of a blob are local; `have` is the inode of the file that the caller has, or 0.

        `still_coming` is called whenever the driver says that it takes long and that there is progress.

        Raises:
            NoSpaceError: the node has no room for them.
            UnobtainableError: the driver cannot get them; it says why in its own log.
        """
        number = next(self._numbers)
        message = {"op": "need", "id": number, "blob": str(blob), "start": start, "end": end, "have": have}
        need = self._needs[number] = _Need(message, still_coming)
        try:
            if self._outgoing:
                self._outgoing.send_nowait(message)
            await need.decided.wait()
        finally:
            del self._needs[number]
        if isinstance(need.outcome, Answer):
            return need.outcome
        kind = NoSpaceError if need.outcome and need.outcome.lacks_space else UnobtainableError
        raise kind(f"blob {blob}", f"bytes {start} to {end} are not to be had now", "see the log of the driver")

    def tell(self, message: dict[str, Any]) -> bool:
        """Send a message that needs no answer, unless the driver is away or behind; say whether it was sent."""
        if self._outgoing is None or self._outgoing.statistics().current_buffer_used >= _MOST_WAITING:
            return False
        self._outgoing.send_nowait(message)
        return True

    async def finish(self, message: dict[str, Any]) -> None:
        """Send a last message, if the driver listens, and return when it has taken everything."""
        if self.tell(message) and self._outgoing:
            self._outgoing.close()
            await self._all_sent.wait()

    async def run(self) -> NoReturn:
        """Keep the connection for ever."""
        failures = 0
        while True:
            with suppress(OSError), trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
                await connected.connect(str(self._path))
                if await self._converse(connected):
                    failures = 0
            await trio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    async def _converse(self, connected: trio.socket.SocketType) -> bool:
        """Ask again what is still needed, then tell and listen until either is over; say whether the driver spoke."""
        self._outgoing, waiting = trio.open_memory_channel[dict[str, Any]](math.inf)  # needs are bounded by readers
        for message in (self._hello, *(need.message for need in self._needs.values())):
            self._outgoing.send_nowait(message)
        spoke = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, connected, waiting, nursery.cancel_scope)
                with suppress(OSError):
                    while await self._hear(connected):
                        spoke = True
                nursery.cancel_scope.cancel()
        finally:
            self._outgoing = None
        return spoke

    async def _send(
        self,
        connected: trio.socket.SocketType,
        waiting: trio.MemoryReceiveChannel[dict[str, Any]],
        conversation: trio.CancelScope,
    ) -> None:
        """Send what is to be said; end the conversation where the driver takes nothing."""
        try:
            async for message in waiting:
                with trio.fail_after(_SEND_SECONDS):
                    await connected.send(json.dumps(message).encode())
            self._all_sent.set()
        except (OSError, trio.TooSlowError):
            conversation.cancel()

    async def _hear(self, connected: trio.socket.SocketType) -> bool:
        """Take in one message; say whether there was one that was understood."""
        content, descriptors = await _receive(connected)
        try:
            if content:
                self._take_in(messages.parse(content), descriptors)
        except CsiOrasError as error:
            logger.error("the driver says what is not understood", cause=error.message)
            return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return bool(content)

    def _take_in(self, message: messages.Message, descriptors: list[int]) -> None:
        """Decide what it is about; descriptors that somebody takes are taken out of the list."""
        if isinstance(message, messages.Unasked):
            self._hear_unasked(message)
            if isinstance(message, messages.Poisoned):
                self._refuse_all(message.blob)
            return
        need = self._needs.get(message.number)
        if need is None or need.outcome:  # nobody waits any more
            return
        if isinstance(message, messages.Coming):
            need.still_coming()
            return
        if isinstance(message, messages.Refused):
            need.decide(message)
            return
        if message.start > need.message["start"] or message.end < need.message["end"]:
            raise HostileContentError("message of the driver", "shows other bytes than were asked for")
        descriptor = _checked(descriptors, message.inode)
        need.decide(Answer(message.start, message.end, message.inode, descriptor))

    def _refuse_all(self, blob: Digest) -> None:
        for number, need in self._needs.items():
            if need.message["blob"] == str(blob):
                need.decide(messages.Refused(number, lacks_space=False))


def _checked(descriptors: list[int], inode: int) -> int | None:
    if not descriptors:
        return None
    found = os.fstat(descriptors[0])
    if len(descriptors) > 1 or not stat.S_ISREG(found.st_mode) or found.st_ino != inode:
        raise HostileContentError("message of the driver", "comes with another file than it says")
    return descriptors.pop()


async def _receive(connected: trio.socket.SocketType) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    content, ancillary, flags, _ = await connected.recvmsg(messages.LARGEST_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        content = _CUT
    return content, descriptors.tolist()
