"""A registry of a great many tiny artifacts, for stores that grow: made up when it starts, and served from memory.

It answers what a pull asks, in a tenth of a real registry's processor time, so that a store with 100,000 blobs is
filled in minutes. What is in that store afterwards is what any registry would have led to.
"""

import contextlib
import re
import socketserver
import threading
from types import TracebackType
from typing import Self

from tests.support.artifacts import EMPTY_TYPE, OCI_MANIFEST, Layer, manifest, sha256

_REPOSITORY = "grown"
_BLOB_BYTES = 1 << 10
_PATH = re.compile(rb"(GET|HEAD) /v2/[^ ]*/(manifests|blobs)/([^ ?]+)")
_LONGEST_LINE = 8 << 10
_BLANK = b"\r\n"


class Shelf:
    """Artifacts by their numbers, each with layers of its own; use it in a with statement."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._held: dict[str, tuple[bytes, str]] = {sha256(b"{}"): (b"{}", EMPTY_TYPE)}
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.held = self._held
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def blobs(self) -> int:
        """How many blobs each artifact brings, its manifest among them."""
        return self._layers + 1

    def artifact(self, number: int) -> str:
        """Put an artifact there, and return its reference."""
        layers = [
            Layer(content=f"{number} {place}\n".encode().ljust(_BLOB_BYTES, b"."), title=f"file-{place}")
            for place in range(self._layers)
        ]
        content = manifest(layers)
        self._held.update({sha256(layer.content): (layer.content, "application/octet-stream") for layer in layers})
        self._held[f"v{number}"] = self._held[sha256(content)] = content, OCI_MANIFEST
        return self.reference(number)

    def reference(self, number: int) -> str:
        """Return the reference of an artifact."""
        return f"{self.address}/{_REPOSITORY}:v{number}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    disable_nagle_algorithm = True
    held: dict[str, tuple[bytes, str]]


class _Connection(socketserver.StreamRequestHandler):
    """Requests of one connection, one after the other; a path that it does not know is not found."""

    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline(_LONGEST_LINE):
                while self.rfile.readline(_LONGEST_LINE) not in (_BLANK, b""):
                    pass
                self.wfile.write(self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        asked = _PATH.match(line)
        found = self.server.held.get(asked[3].decode()) if asked else None
        if asked is None or found is None:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        content, media_type = found
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        return head if asked[1] == b"HEAD" else head + content
