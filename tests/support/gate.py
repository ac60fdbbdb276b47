"""A gate before a real registry: lets so many bytes of answers through, holds the rest until it is opened, and counts.

What a slow or stalled network does, at a byte that the test chooses and for as long as it needs.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_CHUNK = 16 << 10
_PATIENCE = 60.0


class Gate:
    """A TCP proxy; use it in a with statement, and its `address` in references."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._changed = threading.Condition()
        self._limit: int | None = None
        self._passed = 0
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def passed(self) -> int:
        """Bytes of answers that have gone through."""
        with self._changed:
            return self._passed

    def hold_after(self, count: int) -> None:
        """Let `count` more bytes through, and hold what comes after them."""
        with self._changed:
            self._limit = self._passed + count
            self._changed.notify_all()

    def open(self) -> None:
        """Hold nothing any more."""
        with self._changed:
            self._limit = None
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Return when everything that may go through has."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._limit is not None and self._passed >= self._limit, _PATIENCE)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
            except OSError:
                return
            for source, sink, limited in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink), kwargs={"limited": limited}).start()

    def _pump(self, source: socket.socket, sink: socket.socket, *, limited: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                while data:
                    count = self._allowed(len(data)) if limited else len(data)
                    if not count:
                        break
                    sink.sendall(data[:count])
                    data = data[count:]
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if limited:
            source.close()
            sink.close()

    def _allowed(self, wanted: int) -> int:
        """Wait until something may pass, and return how much of `wanted` may; 0 is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._limit is None or self._passed < self._limit)
            if self._closed:
                return 0
            count = wanted if self._limit is None else min(wanted, self._limit - self._passed)
            self._passed += count
            self._changed.notify_all()
            return count
