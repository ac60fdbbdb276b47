"""A driver as the FUSE process sees it: it hands out files, and can stall, go away, lie and change its mind.

What it hands out holds wrong bytes wherever it has not called them local, so that whoever reads too early is seen.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

UNTRUE = 0xEE
WINDOW = 1 << 20
"""How much is made local around what is asked for."""


class Source:
    """One blob: its true bytes, and the file in which they appear."""

    def __init__(self, content: bytes, directory: Path, name: str) -> None:
        self.content = content
        self._directory = directory
        self._name = name
        self._files: list[FileIO] = []
        self.replace()

    def replace(self) -> None:
        """Begin anew, in another file."""
        path = self._directory / f"{self._name}.{len(self._files)}"
        path.write_bytes(bytes([UNTRUE]) * len(self.content))
        self._files.append(path.open("r+b", buffering=0))
        self.inode = path.stat().st_ino

    @property
    def file(self) -> FileIO:
        """The file as it is now."""
        return self._files[-1]

    def close(self) -> None:
        """Let go of every file."""
        for file in self._files:
            file.close()

    def make_local(self, start: int, end: int) -> tuple[int, int]:
        """Return what is local now."""
        start, end = start - start % WINDOW, min(end + -end % WINDOW, len(self.content))
        os.pwrite(self.file.fileno(), self.content[start:end], start)
        return start, end


class FakeDriver:
    """Serves `sources` by digest on a socket; `heard` are the messages that came, in their order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sources: dict[str, Source] = {}
        self.heard: list[dict[str, Any]] = []
        self.goes_on = threading.Event()
        """Cleared, nothing is answered."""
        self.goes_on.set()
        self.delay = 0.0
        self.error: str | None = None
        self.lies: list[dict[str, Any]] = []
        """What is said instead of the truth, each once."""
        self.poisoned: set[str] = set()
        self.brings_announced = False
        """Whether bytes come that were announced, and are called local unasked."""
        self._changed = threading.Condition()
        self._listening: socket.socket | None = None
        self._connections: set[socket.socket] = set()

    def start(self) -> None:
        """Listen."""
        self.path.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(str(self.path))
        self._listening.listen()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        """Be gone, with every connection."""
        if self._listening:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        self.hang_up()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Be gone for good."""
        self.goes_on.set()
        self.stop()
        for source in self.sources.values():
            source.close()

    def hang_up(self) -> None:
        """End every connection, and answer new ones."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def poison(self, digest: str) -> None:
        """Say that a blob is wrong, now and to whoever comes."""
        self.poisoned.add(digest)
        for connection in list(self._connections):
            _say(connection, {"op": "poison", "blob": digest})

    def say(self, content: bytes, *descriptors: int) -> None:
        """Say anything to everybody."""
        for connection in list(self._connections):
            socket.send_fds(connection, [content], descriptors)

    def messages(self, operation: str) -> list[dict[str, Any]]:
        """Return what came of one kind."""
        return [message for message in self.heard if message["op"] == operation]

    def wait_for(self, operation: str, count: int = 1, seconds: float = 30) -> list[dict[str, Any]]:
        """Return the messages of a kind when there are so many of them."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages(operation)) >= count, seconds), (
                f"no {count} of {operation}, but {self.heard[-5:]}"
            )
        return self.messages(operation)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connected, _ = listening.accept()
                threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with connected, suppress(OSError):
            for digest in self.poisoned:
                _say(connected, {"op": "poison", "blob": digest})
            self._connections.add(connected)
            while content := connected.recv(65536):
                message = json.loads(content)
                with self._changed:
                    self.heard.append(message)
                    self._changed.notify_all()
                if message["op"] == "ahead" and self.brings_announced:
                    _say(connected, self._brought(message))
                if message["op"] == "need":
                    threading.Thread(target=self._answer, args=(connected, message), daemon=True).start()
        self._connections.discard(connected)

    def _brought(self, message: dict[str, Any]) -> dict[str, Any]:
        source = self.sources[message["blob"]]
        start, end = source.make_local(message["start"], message["end"])
        return {"op": "shown", "blob": message["blob"], "start": start, "end": end, "inode": source.inode}

    def _answer(self, connected: socket.socket, message: dict[str, Any]) -> None:
        self.goes_on.wait()
        time.sleep(self.delay)
        with suppress(OSError):
            if self.error or message["blob"] in self.poisoned:
                _say(connected, {"id": message["id"], "error": self.error or "EIO"})
                return
            source = self.sources[message["blob"]]
            start, end = source.make_local(message["start"], message["end"])
            answer = {"id": message["id"], "start": start, "end": end, "inode": source.inode}
            if self.lies:
                answer |= self.lies.pop(0)
            _say(connected, answer, *([source.file.fileno()] if message["have"] != source.inode else []))


def _say(connected: socket.socket, message: dict[str, Any], *descriptors: int) -> None:
    socket.send_fds(connected, [json.dumps(message).encode()], descriptors)
