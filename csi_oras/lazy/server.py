"""The socket that FUSE processes ask: which bytes are here, and a descriptor to read them from.

One message is one JSON object. A process says first which tree it serves; whoever may connect is root, as is whoever
reads the store. No call waits in a thread of the connection: what is asked for is fetched in turns, dealt between
trees, and answered when it is here.
"""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from csi_oras.endpoint import private_path
from csi_oras.errors import CsiOrasError, NoSpaceError
from csi_oras.lazy.blob import Shown
from csi_oras.lazy.tree import LazyTree
from csi_oras.lazy.trees import LazyTrees
from csi_oras.oci.digest import Digest
from csi_oras.store.paths import store_errors
from csi_oras.telemetry.logs import logger
from csi_oras.transfer.turns import Turns

_SHARE = 64
"""Reads that wait for one registry at a time."""
_AHEAD_SHARE = 16
"""Announced windows of one registry whose bytes are proven while they come."""
_LARGEST_MESSAGE = 64 << 10
_SEND_SECONDS, _PAUSE_SECONDS = 5, 1
_BACKLOG = 128


class LazyServer:
    """Answers the FUSE processes of this node."""

    def __init__(self, trees: LazyTrees, count: Callable[[Mapping[str, float]], None]) -> None:
        """Answer for `trees`; `count` takes what a process has done since it told last."""
        self._path = trees.kept.socket
        self._find = trees.find
        self._count = count
        trees.listen(partial(self._tell, "poison"))
        trees.listen_replaced(partial(self._tell, "drop"))
        self._turns = Turns("read", _SHARE)
        self._ahead = Turns("read-ahead", _AHEAD_SHARE)
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()

    def start(self) -> None:
        """Listen from now on.

        Raises:
            StoreBrokenError: that is not possible.
        """
        private = private_path(self._path)
        with store_errors("socket for lazy volumes"):
            private.unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listening.bind(str(private))
            private.chmod(0o600)
            listening.listen(_BACKLOG)
            private.rename(self._path)
        threading.Thread(target=self._accept, args=(listening,), name="lazy", daemon=True).start()

    def _tell(self, what: str, tree: LazyTree, digest: Digest) -> None:
        """Tell the processes of a tree that a blob is wrong, or in another file."""
        with self._lock:
            told = [connection for connection in self._connections if connection.tree is tree]
        for connection in told:
            connection.tell(what, digest)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connected, _ = listening.accept()
            except OSError as error:  # out of descriptors, for one: whoever asks tries again
                logger.error("a FUSE process cannot be heard", cause=error.strerror)
                time.sleep(_PAUSE_SECONDS)
                continue
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
            threading.Thread(target=self._serve, args=(connected,), name="lazy", daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        connection = _Connection(connected)
        try:
            tree = self._greet(connection)
            if tree:
                with self._lock:
                    self._connections.add(connection)
                for digest in tree.poisoned():
                    connection.tell("poison", digest)
                for digest in tree.doubtful():
                    connection.tell("drop", digest)
                while message := connection.receive():
                    self._answer(connection, tree, message)
        except OSError:  # it was killed
            return
        except (ValueError, LookupError, TypeError, CsiOrasError) as error:
            logger.warning("a FUSE process says what is not understood", cause=type(error).__name__)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _greet(self, connection: "_Connection") -> LazyTree | None:
        message = connection.receive()
        if message and message["op"] == "hello":
            connection.tree = self._find(str(message["tree"]))
            connection.understands |= set(message.get("understands", []))
        return connection.tree

    def _answer(self, connection: "_Connection", tree: LazyTree, message: dict[str, Any]) -> None:
        if message["op"] == "stats":
            self._count({key: float(value) for key, value in message.items() if key != "op"})
            return
        digest, start, end = Digest.parse(message["blob"]), int(message["start"]), int(message["end"])
        if not tree.has(digest, start, end):
            raise ValueError("no such bytes")
        if message["op"] == "ahead":  # it may take a look for a credential; the next message is what is wanted now
            self._ahead.submit(tree.registry, tree, partial(_advance, connection, tree, digest, start, end))
            return
        number = int(message["id"])
        still_coming = partial(connection.tell_to_wait, number)
        show = partial(tree.show, digest, start, end, int(message["have"]), still_coming=still_coming)
        shown = self._turns.submit(tree.registry, tree, show)
        shown.add_done_callback(partial(_tell, connection, number))


class _Connection:
    """One FUSE process."""

    def __init__(self, connected: socket.socket) -> None:
        self.tree: LazyTree | None = None
        self.understands = {"poison"}
        self._socket = connected
        self._lock = threading.Lock()
        self._is_closed = False

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None when the process is gone."""
        content = self._socket.recv(_LARGEST_MESSAGE)
        message: dict[str, Any] | None = json.loads(content) if content else None
        return message

    def send(self, message: dict[str, Any], *descriptors: int) -> None:
        """Send a message, unless the process is gone or does not listen."""
        content = json.dumps(message, separators=(",", ":")).encode()
        with self._lock, suppress(OSError):
            if not self._is_closed:
                socket.send_fds(self._socket, [content], descriptors)

    def tell(self, what: str, digest: Digest) -> None:
        """Say something of a blob, but to a process of a version that does not know it: that would hang up."""
        if what in self.understands:
            self.send({"op": what, "blob": str(digest)})

    def tell_to_wait(self, number: int) -> None:
        """Say that what was asked for is still coming, but to a process of an older version: it would hang up."""
        if "wait" in self.understands:
            self.send({"id": number, "wait": True})

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._is_closed = True
            self._socket.close()


def _advance(connection: _Connection, tree: LazyTree, digest: Digest, start: int, end: int) -> None:
    """Tell a process what it need not ask for, as it comes: that it was announced is no reason to wait for it."""
    for shown in tree.advance(digest, start, end):
        told = {"start": shown.start, "end": shown.end, "inode": shown.inode}
        connection.send({"op": "shown", "blob": str(digest), **told})


def _tell(connection: _Connection, number: int, future: Future[Shown]) -> None:
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or error:
        name = "ENOSPC" if isinstance(error, NoSpaceError) else "EIO"
        if isinstance(error, CsiOrasError):
            logger.warning("bytes of a lazy volume cannot be shown", cause=error.message)
        elif error:
            logger.error("a bug: bytes of a lazy volume cannot be shown", exc_info=error)
        connection.send({"id": number, "error": name})
        return
    shown = future.result()
    answer = {"id": number, "start": shown.start, "end": shown.end, "inode": shown.inode}
    if shown.descriptor is None:
        connection.send(answer)
    else:
        connection.send(answer, shown.descriptor)
        os.close(shown.descriptor)
