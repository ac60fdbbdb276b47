"""A proxy before a real registry on which something happens to a request that the test names, at a moment it names.

It is honest by itself. A fault waits for a kind of request and strikes before it arrives, when half of it has, or
before its answer is heard: it may hold it, and cut it off.
"""

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_PIECE = 128 << 10
_PATIENCE = 60.0
_OF_A_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class CutError(Exception):
    """The connection breaks here."""


class RefusedError(Exception):
    """The request is refused here, as by a server that has too much to do."""


class Moment(Enum):
    """When a fault strikes."""

    BEFORE = auto()
    DURING = auto()
    AFTER = auto()


@dataclass(frozen=True, kw_only=True)
class Point:
    """The request with a `number` among those of a method whose path a pattern is found in, and a moment of it."""

    method: str
    path: str
    moment: Moment = Moment.BEFORE
    number: int = 1


@dataclass
class Fault:
    """What happens at a point, once."""

    point: Point
    action: Callable[[], None]
    struck: threading.Event = field(default_factory=threading.Event)
    seen: int = 0

    def strike(self, moment: Moment) -> None:
        """Let it happen, if this is the moment.

        Raises:
            CutError: the action cuts the connection.
            RefusedError: the action refuses the request, which was not answered yet.
        """
        if self.point.moment is moment:
            self.struck.set()
            self.action()


_NOTHING = Fault(Point(method="", path=""), lambda: None)


class FaultProxy:
    """A proxy to a port of loopback; use it in a with statement, and its `address` in references."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rate = 0
        """Bytes a second that go up in a request; 0 is as fast as it goes."""
        self.least_chunk = 0
        """What the registry says that chunks have at least, if anything."""
        self.manifests = threading.RLock()
        """Held while a manifest is on its way or answered: with it, none is."""
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._server = _Server(self)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def arm(self, point: Point, action: Callable[[], None]) -> Fault:
        """Let something happen at a point from now on, once."""
        fault = Fault(point, action)
        with self._lock:
            self._faults.append(fault)
        return fault

    def disarm(self) -> None:
        """Let nothing happen any more."""
        with self._lock:
            self._faults.clear()

    def fault_of(self, method: str, path: str) -> Fault:
        """Return what is to happen to a request that came in."""
        with self._lock:
            for fault in self._faults:
                if fault.point.method == method and re.search(fault.point.path, path):
                    fault.seen += 1
                    if fault.seen == fault.point.number:
                        self._faults.remove(fault)
                        return fault
        return _NOTHING

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: either side may go away at any time."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = _PATIENCE

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""

    def _pass(self) -> None:
        fault = self.server.proxy.fault_of(self.command, self.path)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.port, timeout=_PATIENCE)
        try:
            fault.strike(Moment.BEFORE)
            with self._turn():
                self._send_up(upstream, fault)
                answer = upstream.getresponse()
            with answer:
                fault.strike(Moment.AFTER)
                self._send_down(answer, fault)
        except RefusedError:
            self.send_response_only(http.HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Length", "0")
            self.end_headers()
        except (OSError, http.client.HTTPException, CutError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 (http.server's names)

    def _turn(self) -> AbstractContextManager[object]:
        is_manifest = self.command == "PUT" and "/manifests/" in self.path
        return self.server.proxy.manifests if is_manifest else nullcontext()

    def _send_up(self, upstream: http.client.HTTPConnection, fault: Fault) -> None:
        length = int(self.headers.get("Content-Length", 0))
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OF_A_CONNECTION:
                upstream.putheader(name, value)
        upstream.putheader("Content-Length", str(length))
        upstream.endheaders()
        for count in _pieces(length, fault if self.command != "GET" else _NOTHING):
            if rate := self.server.proxy.rate:
                time.sleep(count / rate)
            upstream.send(self.rfile.read(count))

    def _send_down(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        is_bare = self.command == "HEAD" or answer.status == http.HTTPStatus.NO_CONTENT
        length = answer.getheader("Content-Length")
        body = b"" if is_bare or length else answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_A_CONNECTION:
                self.send_header(name, value)
        if self.server.proxy.least_chunk and self.command == "POST":
            self.send_header("OCI-Chunk-Min-Length", str(self.server.proxy.least_chunk))
        if answer.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if length and not is_bare:
            for count in _pieces(int(length), fault if self.command == "GET" else _NOTHING):
                self.wfile.write(answer.read(count))


def _pieces(length: int, fault: Fault) -> Iterator[int]:
    """Yield the lengths of pieces; a fault strikes after half of it."""
    yield from _cut(length // 2)
    fault.strike(Moment.DURING)
    yield from _cut(length - length // 2)


def _cut(length: int) -> Iterator[int]:
    for start in range(0, length, _PIECE):
        yield min(_PIECE, length - start)
