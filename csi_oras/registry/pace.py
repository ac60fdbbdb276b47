"""The pace of a peer: who sends a little now and then, or headers without end, holds a thread for ever otherwise.

A socket's own timeout only bounds the wait for the next byte. Here the time spent waiting is added up, and a
window of it that brought next to nothing is a stall, too.
"""

import http.client
import io
import socket
import time
from typing import Any

SLOWEST_BYTES_PER_SECOND = 1024
_LARGEST_HEAD = 1 << 20
"""Bytes of status line, headers and interim answers together; http.client bounds only each of them."""


class PacedResponse(http.client.HTTPResponse):
    """A response that gives up on a peer without pace, in windows as long as the socket's timeout."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        self._reader = _PacedReader(sock.makefile("rb", buffering=0), sock.gettimeout() or 0.0)
        super().__init__(_Readable(self._reader), *args, **options)  # type: ignore[arg-type]

    def begin(self) -> None:
        """Read status and headers."""
        super().begin()
        self._reader.limit = None


class _Readable:
    """All that a response wants of a socket."""

    def __init__(self, reader: "_PacedReader") -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader)


class _PacedReader(io.RawIOBase):
    def __init__(self, raw: Any, window_seconds: float) -> None:
        self._raw = raw
        self._window = window_seconds
        self._waited = 0.0
        self._count = 0
        self.limit: int | None = _LARGEST_HEAD

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._count += count or 0
        if self.limit is not None and self._count > self.limit:
            raise http.client.HTTPException("headers without end")
        if self._waited > self._window > 0:
            if self._count < self._window * SLOWEST_BYTES_PER_SECOND:
                raise TimeoutError("too slow")
            self._waited, self._count = 0.0, 0
        return count if count is None else int(count)

    def close(self) -> None:
        self._raw.close()
        super().close()
