"""The mounter's socket, and the loop in which everything happens.

Nothing in it waits: a driver that hangs, or says what is not understood, costs nobody else anything.
"""

import fcntl
import gc
import os
import resource
import selectors
import signal
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from csi_oras import kernel
from csi_oras.endpoint import private_path
from csi_oras.errors import CsiOrasError, HostileContentError, InvalidConfigError
from csi_oras.fuse.program import Settings
from csi_oras.mounter import protocol
from csi_oras.mounter.processes import Processes
from csi_oras.mounter.protocol import Message
from csi_oras.oci import document
from csi_oras.telemetry.logs import logger

_DEVICE = os.makedev(10, 229)
"""/dev/fuse (Linux, admin-guide/devices.txt)."""
_BACKLOG, _MOST_CONNECTIONS = 1024, 1024
_PATIENCE_SECONDS, _LOOK_SECONDS = 5.0, 0.1
"""How long the mounter before this one may take to end."""
_LONGEST_PATH = 4095
_REQUEST = "request to the mounter"


class Server:
    """The mounter: holds what drivers give it, for as long as it lives."""

    def __init__(self, path: Path, state_dir: Path) -> None:
        """Listen at `path`; trees lie below `state_dir`."""
        self._path = path
        self._state_dir = state_dir
        self._selector = selectors.DefaultSelector()
        self._processes = Processes(self._selector)
        self._connections: set[socket.socket] = set()

    def start(self) -> None:
        """Listen from now on.

        Raises:
            InvalidConfigError: another mounter does, or nobody can.
        """
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # three for each tree
        private = private_path(self._path)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(self._path.with_name(f"{self._path.name}.lock"))
            private.unlink(missing_ok=True)
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listening.settimeout(0)
            previous = os.umask(0o177)
            self._listening.bind(str(private))
            os.umask(previous)
            self._listening.listen(_BACKLOG)
            private.rename(self._path)
        except OSError as error:
            raise InvalidConfigError(
                f"endpoint {self._path}", f"cannot be listened on ({error})", "check --endpoint"
            ) from error
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)

    def run(self) -> NoReturn:
        """Answer until SIGTERM comes, with which all processes end, as they do with kill -9."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        gc.collect()
        gc.freeze()  # what processes share of this memory is not to be copied because somebody looks for garbage
        while True:
            for key, _ in self._selector.select(self._processes.pause()):
                _guarded(key.data)
            _guarded(self._processes.tick)

    def _accept(self) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError:  # it has thought better of it
            return
        if not protocol.is_root(connected) or len(self._connections) >= _MOST_CONNECTIONS:
            connected.close()
            logger.warning("refuses a connection", connections=len(self._connections))
            return
        connected.settimeout(0)
        self._connections.add(connected)
        self._selector.register(connected, selectors.EVENT_READ, partial(self._converse, connected))

    def _converse(self, connected: socket.socket) -> None:
        if connected not in self._connections:  # it was hung up on since it was heard
            return
        message = None
        try:
            message = protocol.receive(connected)
            if message:
                self._answer(message, partial(self._say, connected))
            else:
                self._hang_up(connected)
        except CsiOrasError as error:
            self._say(connected, {"error": error.message})
            logger.warning("a request is not understood", cause=error.message)
        except OSError:
            self._hang_up(connected)
        finally:
            if message:
                message.close()

    def _answer(self, message: Message, say: Callable[..., None]) -> None:
        operation = document.text(message.content, "op", _REQUEST)
        if operation == "hold":
            self._processes.hold(self._settings(message), lambda pid: say({"ok": True, "pid": pid}))
        elif operation == "drop":
            self._processes.drop(message.tree, partial(say, {"ok": True}))
        elif operation == "list":
            self._list(document.text(message.content, "after", _REQUEST, ""), say)
        else:
            raise HostileContentError(_REQUEST, "asks for what no mounter does")

    def _list(self, after: str, say: Callable[..., None]) -> None:
        rest = [listed for listed in self._processes.list() if listed.tree > after]
        page = rest[: protocol.MOST_DESCRIPTORS]
        held = [{"id": listed.tree, "pid": listed.pid, "restarts": listed.restarts} for listed in page]
        say({"ok": True, "held": held, "more": len(page) < len(rest)}, [listed.device for listed in page])

    def _settings(self, message: Message) -> Settings:
        tree, plan, driver = message.tree, self._inside(message, "plan"), self._inside(message, "driver")
        found = [os.fstat(descriptor) for descriptor in message.descriptors]
        if any(not stat.S_ISCHR(one.st_mode) or one.st_rdev != _DEVICE for one in found):
            raise HostileContentError(_REQUEST, "comes with a descriptor that is not one of /dev/fuse")
        if any(map(kernel.is_over, message.descriptors)):
            raise HostileContentError(_REQUEST, "comes with a connection that has ended")
        return Settings(tree=tree, plan=plan, driver=driver, device=message.take())

    def _inside(self, message: Message, key: str) -> Path:
        text = document.text(message.content, key, _REQUEST)
        path = Path(text)
        is_plain = os.path.normpath(text) == text and "\0" not in text and len(os.fsencode(text)) <= _LONGEST_PATH
        if not is_plain or self._state_dir not in path.parents:
            raise HostileContentError(
                _REQUEST, f'"{key}" is not a path in {self._state_dir}', "give driver and mounter the same --state-dir"
            )
        return path

    def _say(self, connected: socket.socket, content: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        if connected not in self._connections:  # it did not wait for the answer
            return
        try:
            protocol.send(connected, content, descriptors)
        except OSError:
            self._hang_up(connected)

    def _hang_up(self, connected: socket.socket) -> None:
        self._connections.discard(connected)
        self._selector.unregister(connected)
        connected.close()


def _lock(path: Path) -> int:
    """Be the only mounter of an endpoint until this process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise InvalidConfigError(f"lock {path}", "is another mounter's", "stop that one") from None
            time.sleep(_LOOK_SECONDS)
        else:
            return descriptor


def _guarded(call: Callable[[], None]) -> None:
    """Call; whatever goes wrong is no reason to end what all lazy volumes of the node live by."""
    try:
        call()
    except Exception:  # noqa: BLE001 (said above)
        with suppress(OSError):
            logger.exception("a bug in the mounter")
