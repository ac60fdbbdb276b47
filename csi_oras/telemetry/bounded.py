"""An HTTP transport whose exchanges end: one deadline and one size for all of a request and its answer.

The client's own timeouts are for each part: who sends a byte now and then keeps within them for ever.
"""

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

_IDLE_SECONDS = 5.0
"""How long a connection is kept for the next request."""


class BoundedTransport(httpx2.HTTPTransport):
    """Ends each exchange after so many seconds or received bytes; for one thread."""

    def __init__(self, authority: ssl.SSLContext, seconds: float, most_bytes: int) -> None:
        super().__init__(verify=authority, trust_env=False)
        self._bounds = _Bounds(seconds, most_bytes)
        # its constructor takes no network, so the pool that it made, and that has connected to nothing, is replaced
        self._pool = httpcore2.ConnectionPool(
            ssl_context=authority, keepalive_expiry=_IDLE_SECONDS, network_backend=_Backend(self._bounds)
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the answer, whose body is still to be read within the same bounds."""
        self._bounds.begin()
        request.headers["Accept-Encoding"] = "identity"
        response = super().handle_request(request)
        response.headers.pop("Content-Encoding", None)  # expanded it could be of any size
        return response


class _Bounds:
    """What is left to an exchange."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self.begin()

    def begin(self) -> None:
        self._deadline = time.monotonic() + self._seconds
        self._bytes_left = self._most_bytes

    def seconds_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout(f"no whole answer within {self._seconds:g} s")
        return left

    def take(self, data: bytes) -> bytes:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise httpcore2.ReadError(f"the answer is longer than {self._most_bytes} bytes")
        return data


class _Backend(httpcore2.SyncBackend):
    def __init__(self, bounds: _Bounds) -> None:
        self._bounds = bounds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 (the bounds are stricter)
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = super().connect_tcp(host, port, self._bounds.seconds_left(), local_address, socket_options)
        return _Stream(stream, self._bounds)


class _Stream(httpcore2.NetworkStream):
    """A connection that heeds the bounds in place of the timeouts that it is given."""

    def __init__(self, stream: httpcore2.NetworkStream, bounds: _Bounds) -> None:
        self._stream = stream
        self._bounds = bounds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._bounds.take(self._stream.read(max_bytes, self._bounds.seconds_left()))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._bounds.seconds_left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        del timeout
        secured = self._stream.start_tls(ssl_context, server_hostname, self._bounds.seconds_left())
        return _Stream(secured, self._bounds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
