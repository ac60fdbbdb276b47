"""A link: the way to a registry that is far away, with a rate for each connection, and with resets.

A relay that knows just enough of HTTP to tell where a request ends and where its answer does. A request is held for
one round trip, the first of a connection for two (the handshake). The kernel paces each connection, and bodies go
through a pipe in the kernel, so that the relay itself costs little. Slow start is not imitated: a connection has its
whole rate at once, whoever opens it.

Pulls only: no request has a body, and every answer says how long it is.
"""

import contextlib
import fcntl
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_SO_MAX_PACING_RATE = 47
"""Linux: bytes a second, kept by TCP itself; Python has no name for it."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_PIPE_BYTES = 1 << 20
_SEND_BUFFER_BYTES = 512 << 10
"""What counts as carried though a client that died has not had it: little, beside what is measured."""
_HEAD_BYTES = 64 << 10
_HEAD_END = b"\r\n\r\n"
_BLOB = b"/blobs/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a link does: seconds, bytes a second of each connection, and one answer in how many is cut off (0: none)."""

    rate: int
    round_trip: float = 0.02
    reset_every: int = 0


class Link:
    """A link to a registry on this machine; use it in a with statement, and its `address` in references."""

    def __init__(self, upstream: str, conditions: Conditions) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = host, int(port)
        self.conditions = conditions
        self._noise = random.Random(1)  # noqa: S311 (where answers are cut off)
        self._changed = threading.Condition()
        self._answers = self._resets = self._carried = 0
        self._open: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def answers(self) -> int:
        """Requests that were answered."""
        return self._answers

    @property
    def resets(self) -> int:
        """Answers that were cut off."""
        return self._resets

    @property
    def carried(self) -> int:
        """Bytes of blobs that were sent, those of answers that were cut off among them."""
        return self._carried

    def wait_until_carried(self, count: int, seconds: float) -> bool:
        """Wait until so many bytes of blobs were sent, and return whether they were."""
        with self._changed:
            return self._changed.wait_for(lambda: self._carried >= count, seconds)

    def __enter__(self) -> Self:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            serving = dict(self._open)
            for client in serving:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        for thread in serving.values():
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                with self._changed:
                    self._open[client] = thread
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with socket.create_connection(self._upstream) as server, _pipe() as pipe:
                _shape(client, self.conditions.rate)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._relay(client, server, pipe)
        except OSError:  # either end has gone
            pass
        finally:
            with self._changed:
                del self._open[client]
                client.close()

    def _relay(self, client: socket.socket, server: socket.socket, pipe: tuple[int, int]) -> None:
        """Relay requests and answers, in turn, until an end has gone or an answer is cut off."""
        connected = time.monotonic() + self.conditions.round_trip
        while request := _head(client):
            handshake = max(0, connected - time.monotonic())
            time.sleep(handshake + self.conditions.round_trip)
            server.sendall(request)
            answer = _head(server)
            whole = len(answer) + _body_bytes(request, answer)
            passing = self._passing(whole)
            client.sendall(answer[:passing])
            blob = request.startswith(b"GET ") and _BLOB in request.partition(b"\r\n")[0]
            self._pass(server, client, pipe, max(0, passing - len(answer)), count=blob)
            if passing < whole:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                return

    def _passing(self, whole: int) -> int:
        """Return how many bytes of an answer are to pass: all, or some if it is its turn to be cut off."""
        every = self.conditions.reset_every
        with self._changed:
            self._answers += 1
            if not every or self._answers % every:
                return whole
            self._resets += 1
            return self._noise.randrange(whole)

    def _pass(
        self, source: socket.socket, sink: socket.socket, pipe: tuple[int, int], left: int, *, count: bool
    ) -> None:
        while left:
            moved = waiting = os.splice(source.fileno(), pipe[1], min(left, _PIPE_BYTES))
            if not moved:
                raise ConnectionError
            while waiting:
                waiting -= os.splice(pipe[0], sink.fileno(), waiting)
            left -= moved
            if count:
                with self._changed:
                    self._carried += moved
                    self._changed.notify_all()


def _shape(client: socket.socket, rate: int) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    client.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        with contextlib.suppress(OSError):  # a smaller one does, too
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _head(source: socket.socket) -> bytes:
    """Return all to the empty line and nothing beyond it, or nothing when there is no more HTTP.

    The other end has closed, or tries TLS first, as crane and skopeo do, and is to hear at once that there is none.
    """
    head = b""
    while not head.endswith(_HEAD_END):
        seen = source.recv(_HEAD_BYTES, socket.MSG_PEEK)
        if not (head + seen)[:1].isupper():
            return b""
        end = (head + seen).find(_HEAD_END)
        head += source.recv(len(seen) if end < 0 else end + len(_HEAD_END) - len(head))
    return head


def _body_bytes(request: bytes, answer: bytes) -> int:
    """Return the length of an answer's body."""
    if request.startswith(b"HEAD ") or answer.split(b" ", 2)[1] in {b"204", b"304"}:
        return 0
    fields = (line.partition(b":") for line in answer.lower().split(b"\r\n"))
    return next(int(value) for name, _, value in fields if name == b"content-length")
