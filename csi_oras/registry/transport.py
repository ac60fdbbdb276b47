"""HTTP/1.1 over pooled connections that many threads share.

http.client and nothing above it: `readinto` fills the caller's buffer, redirects, proxies, cookies, netrc and
content encodings do not exist here, and headers are bounded. The invariant: a connection is used by one
response at a time and goes back only when the body was read to its end.
"""

import http.client
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

from csi_oras.errors import BadResponseError, RegistryUnavailableError, printable
from csi_oras.registry.channel import Channel
from csi_oras.registry.dial import dial
from csi_oras.registry.origin import DEFAULT_PORTS, Origin, target_of
from csi_oras.registry.pace import PacedResponse, Peer

STALL_SECONDS = 30.0
"""Longest wait for a connection, and for the next byte on one."""
IDLE_SECONDS = 30.0
"""Longest that a connection waits to be used again."""
IDLE_PER_ORIGIN = 32
_UPLOAD_BYTES = 1 << 20
"""What is read of a file at once to be sent."""
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
"""How OpenSSL calls the answer of a server that speaks plain HTTP."""
_HUNG_UP = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)
"""How a peer looks that reads no more of a request; the last is the same below TLS."""
_LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class _Request:
    origin: Origin
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | Iterable[bytes | memoryview] | None
    channel: Channel | None
    patience: float

    @property
    def key(self) -> "_Key":
        return self.origin, self.channel


_Key = tuple[Origin, Channel | None]


class Response:
    """A response whose body is still to be read; close it, or use it in a with statement."""

    def __init__(self, pool: "Transport", request: _Request, connection: http.client.HTTPConnection) -> None:
        self._pool = pool
        self._key = request.key
        self._connection = connection
        self.origin = request.origin
        self._response = cast("PacedResponse", connection.getresponse())
        self.status = self._response.status
        self.method = request.method

    def spend(self) -> None:
        """Let the connection be used by nobody after this."""
        self._response.will_close = True

    def header(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return self._response.headers.get(name) or ""

    @property
    def peer(self) -> Peer:
        """Return who sends it."""
        return self._response.peer

    def expect(self, size: int) -> None:
        """Let no more come than a body of `size` bytes and what frames it."""
        self._response.bound_body(size, is_document=False)

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the body goes and return the count; 0 is the end.

        Raises:
            RegistryUnavailableError: the connection broke or stalled.
        """
        try:
            return self._response.readinto(buffer)
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: a chunk of negative length
            raise unreachable(self.origin, error) from error

    def read(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            BadResponseError: it is longer than `limit` bytes.
            RegistryUnavailableError: the connection broke or stalled, or it all takes too long.
        """
        self._response.bound_body(limit, is_document=True)
        try:
            body = self._response.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: a chunk of negative length
            raise unreachable(self.origin, error) from error
        if len(body) > limit:
            raise BadResponseError(str(self.origin), f"sent more than the {limit} bytes that are allowed here")
        if self._response.length:  # what Content-Length promised and did not come
            raise RegistryUnavailableError(str(self.origin), "broke off in mid-answer", "it is tried again")
        return body

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self._response.isclosed() and not self._response.will_close:
            self._pool.put_back(self._key, self._connection)
        else:
            self._connection.close()
            self._response.close()  # where the peer is to end it, the connection no longer knows its response


class _Connection(http.client.HTTPConnection):
    """A connection to an origin, made as its channel says."""

    response_class = PacedResponse

    def __init__(self, origin: Origin, context: ssl.SSLContext, channel: Channel | None, stall_seconds: float) -> None:
        super().__init__(origin.host, origin.port, blocksize=_UPLOAD_BYTES)
        self.default_port = DEFAULT_PORTS[origin.scheme]
        self._dial_seconds = (channel.dial_seconds if channel else None) or stall_seconds
        self._stall_seconds = stall_seconds
        self._tries_tls = origin.scheme == "http" and channel is not None and channel.tries_tls
        self._context = (
            context if origin.scheme == "https" or (self._tries_tls and origin.port != self.default_port) else None
        )

    def connect(self) -> None:
        """Connect within the dial timeout; after that, the time for a stall counts."""
        self._dial()
        if self._context is None:
            return
        try:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
        except ssl.SSLError as error:
            if not self._tries_tls or error.reason not in _NO_TLS:
                raise
            self._dial()  # its URL says plain HTTP, and that is what it speaks

    def _dial(self) -> None:
        self.sock = dial(self.host, self.port, self._dial_seconds)
        self.sock.settimeout(self._stall_seconds)


class Transport:
    """Opens, keeps and hands out connections by origin and channel."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        stall_seconds: float = STALL_SECONDS,
        observe: Callable[[int], None] = lambda _status: None,
    ) -> None:
        """Trust what `tls` trusts (the system); tell `observe` the status of every response."""
        self._tls = tls or ssl.create_default_context()
        self._stall_seconds = stall_seconds
        self._observe = observe
        self._lock = threading.Lock()
        self._idle: dict[_Key, list[tuple[float, http.client.HTTPConnection]]] = {}
        self._swept = time.monotonic()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes | memoryview] | None = None,
        *,
        channel: Channel | None = None,
        patience: float = 0.0,
    ) -> Response:
        """Send one request, over a connection of `channel`, and return its response with the headers read.

        `patience` is how many seconds longer than usual an answer to a body may take.

        Raises:
            RegistryUnavailableError: no connection, or it broke before there was an answer.
        """
        request = _Request(Origin.of(url), method, target_of(url), headers, body, channel, patience)
        connection = self._take(request.key)
        if connection is not None and body is None:
            try:  # the peer may just have closed what was idle: that is no failure of the registry
                return self._send(request, connection)
            except RegistryUnavailableError:
                connection = None
        return self._send(request, connection or self._open(*request.key))

    def _send(self, request: "_Request", connection: http.client.HTTPConnection) -> Response:
        try:
            is_whole = self._write(request, connection)
            response = Response(self, request, connection)
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: a host that is no DNS name
            connection.close()
            raise unreachable(request.origin, error) from error
        except BaseException:
            connection.close()
            raise
        if not is_whole:
            response.spend()
        self._observe(response.status)
        return response

    def _write(self, request: "_Request", connection: http.client.HTTPConnection) -> bool:
        """Send a request, and say whether all of it went: who refuses a body answers and hangs up in the middle."""
        if connection.sock:
            connection.sock.settimeout(self._stall_seconds)
        try:
            connection.request(request.method, request.target, body=request.body, headers=dict(request.headers))
        except _HUNG_UP:
            if request.body is None or connection.sock is None:
                raise
            return False
        if connection.sock and request.patience:
            connection.sock.settimeout(self._stall_seconds + request.patience)
        return True

    def _open(self, origin: Origin, channel: Channel | None) -> http.client.HTTPConnection:
        context = channel.context if channel else None
        return _Connection(origin, context or self._tls, channel, self._stall_seconds)

    def _take(self, key: _Key) -> http.client.HTTPConnection | None:
        while True:
            with self._lock:
                idle = self._idle.get(key)
                if not idle:
                    return None
                since, connection = idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and not _is_readable(connection):
                return connection
            connection.close()

    def put_back(self, key: _Key, connection: http.client.HTTPConnection) -> None:
        """Keep an idle connection for the next request to the same origin over the same channel."""
        with self._lock:
            idle = self._idle.setdefault(key, [])
            kept = len(idle) < IDLE_PER_ORIGIN
            if kept:
                idle.append((time.monotonic(), connection))
            surplus = self._sweep() if kept else [connection]
        for unwanted in surplus:
            unwanted.close()

    def _sweep(self) -> list[http.client.HTTPConnection]:
        """Take out what nobody has used for long: a channel that a changed file replaced is never asked for again."""
        oldest = time.monotonic() - IDLE_SECONDS
        if self._swept > oldest:
            return []
        self._swept = time.monotonic()
        stale = [connection for idle in self._idle.values() for since, connection in idle if since < oldest]
        fresh = {key: [item for item in idle if item[0] >= oldest] for key, idle in self._idle.items()}
        self._idle = {key: idle for key, idle in fresh.items() if idle}
        return stale

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.close()


def _is_readable(connection: http.client.HTTPConnection) -> bool:
    """An idle connection with something to read was closed by the peer, or is out of step."""
    sock = connection.sock
    if sock is None:
        return True
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def unreachable(origin: Origin, error: Exception) -> RegistryUnavailableError:
    """Say in a person's words why there was no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RegistryUnavailableError(
            str(origin),
            f"its certificate is not trusted ({error.verify_message})",
            "give the node the registry's CA certificate",
        )
    if isinstance(error, TimeoutError):
        return RegistryUnavailableError(str(origin), "did not answer in time", "check the network and the registry")
    if isinstance(error, ssl.SSLError):
        return RegistryUnavailableError(
            str(origin), f"does not speak TLS as expected ({error.reason})", "check scheme and port"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    quoted = printable(reason, _LONGEST_QUOTE)  # the first line of whatever answered, it may be
    return RegistryUnavailableError(str(origin), f"cannot be reached ({quoted})", "check the network and the registry")
