"""A slow link: a loopback port that leads to another one, at so many bytes a second.

A pull over loopback is over before anybody could ask how far it is; behind this one it takes what it would take
from a registry that is far away.
"""

import socket
import threading
import time
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Any, Self

_PIECE = 64 << 10


class SlowLink:
    """A link to `port` that carries `rate` bytes a second from there; use it in a with statement."""

    def __init__(self, port: int, rate: int) -> None:
        self._server = _Server(port, _Meter(rate))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="link", daemon=True)

    @property
    def carried(self) -> int:
        """How many bytes came over the link so far, HTTP headers among them."""
        return self._server.meter.carried

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Meter:
    """Hands out time: whoever has carried bytes sleeps until the link would have carried them."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free = 0.0
        self.carried = 0

    def carry(self, count: int) -> None:
        with self._lock:
            self.carried += count
            self._free = max(self._free, time.monotonic()) + count / self._rate
            wait = self._free - time.monotonic()
        time.sleep(max(0.0, wait))


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, port: int, meter: _Meter) -> None:
        self.port = port
        self.meter = meter
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: either side may go away at any time."""


class _Connection(BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as far:
            threading.Thread(target=_pump, args=(self.request, far, None), daemon=True).start()
            _pump(far, self.request, self.server.meter)


def _pump(source: socket.socket, sink: socket.socket, meter: _Meter | None) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            if meter:
                meter.carry(len(piece))
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
