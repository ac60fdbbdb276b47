"""The metrics server: `/metrics` and `/healthz` over HTTP, for Prometheus and for people."""

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from csi_oras.errors import CsiOrasError, InvalidConfigError
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics

_REQUEST_SECONDS = 10.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], metrics: Metrics, refresh: Callable[[], None], check: Callable[[], None]
    ) -> None:
        self.metrics = metrics
        self.refresh = refresh
        self.check = check
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (http.server's signature)
        logger.debug("a client of the metrics server went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/healthz":
            self._health()
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there are /metrics and /healthz\n")

    def _metrics(self) -> None:
        try:
            self.server.refresh()
        except CsiOrasError as error:
            logger.warning("gauges are out of date", cause=error.message)
        self._answer(HTTPStatus.OK, self.server.metrics.exposition(), CONTENT_TYPE_LATEST)

    def _health(self) -> None:
        try:
            self.server.check()
        except CsiOrasError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.message}\n".encode())
        else:
            self._answer(HTTPStatus.OK, b"ok\n")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Stay silent: scrapes are no events."""


class MetricsServer:
    """Serves metrics and health in a thread of its own."""

    def __init__(self, address: str, metrics: Metrics, refresh: Callable[[], None], check: Callable[[], None]) -> None:
        """Listen on `address`; `refresh` brings the gauges up to date, `check` raises where the driver is not well.

        Raises:
            InvalidConfigError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        try:
            place = (host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 (it is scraped from outside)
            self._server = _Server(place, metrics, refresh, check)
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidConfigError(
                f"metrics address {address}", f"cannot be listened on ({error})", "give --metrics-address HOST:PORT"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which else looks up twice a second
            self._server.shutdown()
        self._server.server_close()
