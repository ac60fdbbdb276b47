"""The pace of a peer: who sends a little now and then, or headers without end, holds a thread for ever otherwise.

A socket's own timeout only bounds the wait for the next byte. Here the time spent waiting is added up, and a
window of it that brought next to nothing is a stall, too. What is small has a deadline for all of it.
"""

import contextlib
import http.client
import io
import socket
import time
from typing import Any

SLOWEST_BYTES_PER_SECOND = 1024
_LARGEST_HEAD = 1 << 20
"""Bytes of status line, headers and interim answers together; http.client bounds only each of them."""
_DOCUMENT_WINDOWS = 4
"""Windows of waiting in which a document must be here."""


class PacedResponse(http.client.HTTPResponse):
    """A response that gives up on a peer without pace, in windows as long as the socket's timeout."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        self.peer = Peer(sock)
        self.peer.bound(_LARGEST_HEAD, windows=1, what="headers")
        super().__init__(_Readable(self.peer), *args, **options)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Read status and headers."""
        super().begin()
        self.peer.unbound()

    def bound_body(self, size: int, *, is_document: bool) -> None:
        """Expect a body of at most `size` bytes and what frames them; a document has a deadline for all of it."""
        self.peer.bound(2 * size + _LARGEST_HEAD, windows=_DOCUMENT_WINDOWS if is_document else 0, what="a body")


class _Readable:
    """All that a response wants of a socket."""

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._peer)


class Peer(io.RawIOBase):
    """Who answers: what came from there, and how long we waited for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._window = sock.gettimeout() or 0.0
        self._waited = 0.0
        self._began = 0.0
        """When the wait began that is not over; 0 if there is none."""
        self._window_began, self._count = 0.0, 0
        self.received = 0
        self.unbound()

    @property
    def waited(self) -> float:
        """Seconds spent waiting so far."""
        began = self._began
        return self._waited + (time.monotonic() - began if began else 0.0)

    def bound(self, size: int, *, windows: int, what: str) -> None:
        """Let so many more bytes pass, and so many windows of waiting (0: any number)."""
        self._most_bytes: float = self.received + size
        self._most_waiting = self._waited + windows * self._window if windows and self._window else float("inf")
        self._what = what

    def unbound(self) -> None:
        """Let any number of bytes pass that come at a pace."""
        self._most_bytes = self._most_waiting = float("inf")

    def cut_off(self) -> None:
        """End it for whoever reads, also in another thread: what has arrived is read, and then there is no more."""
        with contextlib.suppress(OSError):
            # not TLS's own, after which its reader would take what is encrypted for what is not; and reading alone,
            # or the next byte of the peer is answered by a reset, and what has arrived is lost
            socket.socket.shutdown(self._sock, socket.SHUT_RD)

    def readable(self) -> bool:
        """Say that it is."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill `buffer` with what comes next."""
        self._began = time.monotonic()
        try:
            count = int(self._raw.readinto(buffer) or 0)
        finally:
            self._waited += time.monotonic() - self._began
            self._began = 0.0
        self.received += count
        if self.received > self._most_bytes:
            raise http.client.HTTPException(f"{self._what} without end")
        if self._waited > self._most_waiting:
            raise TimeoutError("too slow")
        if self._waited - self._window_began > self._window > 0:
            if self.received - self._count < self._window * SLOWEST_BYTES_PER_SECOND:
                raise TimeoutError("too slow")
            self._window_began, self._count = self._waited, self.received
        return count

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.close()
        super().close()
