"""An HTTP server on loopback that behaves as a test says: what comes in is recorded, what goes out may be bent.

`bend` is the one way to misbehave. It takes a path and something that turns the honest answer into another:

    server.bend("/manifests/", status(503), times=2)        # then honest again
    server.bend("/blobs/", broken_off(100))
    server.bend("/blobs/", lambda request, answer: replace(answer, body=b"evil"))
"""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_POLL_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Request:
    """What came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: bytes
    connection: int
    is_whole: bool = True
    """Whether the body was read to its end."""

    @property
    def authorization(self) -> str:
        return str(self.headers.get("Authorization", ""))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes out; the length is added where `headers` name none."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None
    """Bytes of the body after which the connection breaks; None for all of it."""
    stalls: bool = False
    """Whether nothing more comes where it would end or break, until the server stops."""
    raw: bytes | None = None
    """What is sent instead of all the above, before the connection ends."""
    gate: threading.Event | None = None
    """What the body waits for when the headers are out."""
    drips: float = 0.0
    """Seconds between single bytes that come after `raw` without end."""

    def having(self, **headers: str) -> "Answer":
        """The same with headers, whose names have _ for -."""
        return replace(
            self, headers={**self.headers, **{key.replace("_", "-"): value for key, value in headers.items()}}
        )


Bend = Callable[[Request, Answer], Answer]


def status(code: int, body: bytes = b"", **headers: str) -> Bend:
    """Answer with a status."""
    return lambda _request, _answer: Answer(status=code, body=body).having(**headers)


def header(**headers: str) -> Bend:
    """Answer honestly but for some headers."""
    return lambda _request, answer: answer.having(**headers)


def body(content: bytes) -> Bend:
    """Answer honestly but for the body."""
    return lambda _request, answer: replace(answer, body=content)


def redirect(location: str, code: int = 307) -> Bend:
    """Send the client elsewhere."""
    return status(code, Location=location)


def broken_off(after: int) -> Bend:
    """Break the connection after some bytes of the body."""
    return lambda _request, answer: replace(answer, sent=after)


def stalled(after: int) -> Bend:
    """Send nothing more after some bytes of the body."""
    return lambda _request, answer: replace(answer, sent=after, stalls=True)


def raw(content: bytes) -> Bend:
    """Send these very bytes and end the connection."""
    return lambda _request, answer: replace(answer, raw=content)


def dripping(start: bytes, every: float) -> Bend:
    """Send these very bytes, and then a byte every so many seconds."""
    return lambda _request, answer: replace(answer, raw=start, drips=every)


@dataclass
class _Rule:
    pattern: re.Pattern[str]
    method: str
    bend: Bend
    times: int


@dataclass
class _Interruption:
    pattern: re.Pattern[str]
    method: str
    after: int
    answer: Answer | None
    times: int


class FakeServer:
    """Records every request and answers with `answer`, over TLS where it gets a context; use it in a with statement."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self._rules: list[_Rule] = []
        self._interruptions: list[_Interruption] = []
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self._scheme = "https" if context else "http"
        self._http = _Http(self)
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_SECONDS,), daemon=True)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    def url(self, path: str = "/") -> str:
        return f"{self._scheme}://{self.address}{path}"

    @property
    def connections(self) -> int:
        """How many there have been."""
        return self._http.accepted

    def count(self, path: str = "", method: str = "") -> int:
        """How many requests there were for a path that matches."""
        return len(self.seen(path, method))

    def seen(self, path: str = "", method: str = "") -> list[Request]:
        """The requests for a path that matches, in order."""
        with self._lock:
            return [item for item in self.requests if re.search(path, item.path) and method in ("", item.method)]

    def credentials_seen(self) -> list[str]:
        """Every Authorization header that ever came here."""
        return [request.authorization for request in self.seen() if request.authorization]

    def bend(self, path: str, bend: Bend, *, times: int = 1 << 30, method: str = "") -> None:
        """Bend the answers to paths that match; of several rules the first one that has times left counts."""
        with self._lock:
            self._rules.append(_Rule(re.compile(path), method, bend, times))

    def interrupt(
        self, path: str, after: int, *, method: str = "", times: int = 1 << 30, answer: Answer | None = None
    ) -> None:
        """Read no more than so many bytes of a body, and hang up: with an answer, or without."""
        with self._lock:
            self._interruptions.append(_Interruption(re.compile(path), method, after, answer, times))

    def interruption(self, path: str, method: str) -> _Interruption | None:
        with self._lock:
            for rule in self._interruptions:
                if rule.times and rule.pattern.search(path) and rule.method in ("", method):
                    rule.times -= 1
                    return rule
        return None

    def straighten(self) -> None:
        """Forget every bend."""
        with self._lock:
            self._rules.clear()
            self._interruptions.clear()

    def drop_connections(self) -> None:
        """Close every connection from this side, idle or not."""
        self._http.drop()

    def answer(self, request: Request) -> Answer:
        """The honest answer."""
        del request
        return Answer()

    def respond(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
        answer = self.answer(request)
        with self._lock:
            for rule in self._rules:
                if rule.times and rule.pattern.search(request.path) and rule.method in ("", request.method):
                    rule.times -= 1
                    break
            else:
                return answer
        return rule.bend(request, answer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.drop()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fake: FakeServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._guard:
            self.accepted += 1
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the other side was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep silent: clients that hang up are what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        rule = self.server.fake.interruption(parts.path, self.command)
        body = self.rfile.read(min(length, rule.after) if rule else length)
        request = Request(
            method=self.command,
            path=parts.path,
            query={key: " ".join(values) for key, values in parse_qs(parts.query).items()},
            headers=self.headers,
            body=body,
            connection=self.client_address[1],
            is_whole=len(body) == length,
        )
        answer = self.server.fake.respond(request)
        if rule is None:
            self._send(answer)
        elif rule.answer:
            self._send(rule.answer)
        self.close_connection = self.close_connection or rule is not None

    def _send(self, answer: Answer) -> None:
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            while answer.drips and not self.server.fake.stopped.wait(answer.drips):
                self.wfile.write(b"x")
            self.close_connection = True
            return
        self.send_response(answer.status)
        names = {name.lower() for name in answer.headers}
        if not names & {"content-length", "transfer-encoding"}:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.gate:
            answer.gate.wait(30)
        if self.command != "HEAD":
            self.wfile.write(answer.body if answer.sent is None else answer.body[: answer.sent])
        if answer.stalls:
            self.server.fake.stopped.wait(30)
        if answer.stalls or answer.sent is not None or "close" in answer.headers.get("Connection", ""):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Keep silent."""
