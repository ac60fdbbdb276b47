"""The mounter as the driver sees it.

Each request has a connection of its own, so that threads do not wait for each other, and whatever mounter listens by
then answers it. Every wait has an end: a mounter that hangs makes requests fail, and nothing else.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from csi_oras.errors import CsiOrasError, StoreBrokenError, UnacceptableError, printable
from csi_oras.mounter import protocol
from csi_oras.mounter.protocol import Message
from csi_oras.oci import document

_SECONDS = 10.0
_GRACE_SECONDS = 5.0
"""What a process has to end before it is killed."""
_START_SECONDS, _LOOK_SECONDS = 30.0, 0.05
_LARGEST_LOG = 4 << 20
_REMEDY = "see the log of the mounter"
_starting = threading.Lock()
"""One mounter is started at a time: of two, one would end at once, and look as if it could not be started."""


class Process(NamedTuple):
    """The process of a tree, 0 between two, and how often it was begun again."""

    pid: int
    restarts: int


class _Held(NamedTuple):
    tree: str
    process: Process
    device: int


_HeldTrees = list[_Held]


class Mounter:
    """The mounter that listens at a path."""

    def __init__(self, path: Path, patience: float = _SECONDS) -> None:
        """Ask whoever listens at `path`, and wait for answers for `patience` seconds."""
        self._path = path
        self._patience = patience
        self._subject = f"mounter at {path}"

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Return the mounter at `path`.

        Raises:
            StoreBrokenError: none is there.
        """
        mounter = cls(path)
        mounter._open(mounter._patience).close()
        return mounter

    @classmethod
    def start_detached(cls, path: Path, state_dir: Path) -> Self:
        """Return the mounter at `path`, and start one where there is none; it outlives this process.

        Raises:
            StoreBrokenError: none can be started.
        """
        with _starting:
            try:
                return cls.connect(path)
            except StoreBrokenError:
                return cls._start(path, state_dir)

    def hold(self, tree: str, device: int, plan: Path, driver: Path) -> None:
        """Have a process serve a tree on a connection from now on; the descriptor stays the caller's, too.

        Raises:
            StoreBrokenError: the mounter is gone, hangs or refuses.
        """
        paths = {"plan": os.path.abspath(plan), "driver": os.path.abspath(driver)}  # noqa: PTH100 (no link is resolved)
        self._ask({"op": "hold", "id": tree, **paths}, [device])

    def list(self) -> dict[str, int]:
        """Return the connections that it holds, by tree; the descriptors are the caller's.

        Raises:
            StoreBrokenError: the mounter is gone, hangs or refuses.
        """
        return {held.tree: held.device for held in self._held()}

    def processes(self) -> dict[str, Process]:
        """Return the processes of trees.

        Raises:
            StoreBrokenError: the mounter is gone, hangs or refuses.
        """
        held = self._held()
        for one in held:
            os.close(one.device)
        return {one.tree: one.process for one in held}

    def drop(self, tree: str) -> None:
        """End the process of a tree, let go of its connection, and return when that is done.

        Raises:
            StoreBrokenError: the mounter is gone, hangs or refuses.
        """
        self._ask({"op": "drop", "id": tree}, longer=_GRACE_SECONDS)

    def wait_until_gone(self, met: Callable[[], None]) -> None:
        """Call `met`, and return when the mounter that was there before that has ended.

        Raises:
            StoreBrokenError: none is there.
        """
        with self._open(None) as connected:
            met()
            try:
                connected.recv(1)  # it says nothing by itself
            except OSError:
                return

    def _held(self) -> _HeldTrees:
        found: _HeldTrees = []
        try:
            while self._more_held(found):
                pass
        except BaseException:
            for held in found:
                os.close(held.device)
            raise
        return found

    def _more_held(self, found: _HeldTrees) -> bool:
        """Add what comes after the last one; say whether there is more."""
        message = self._ask({"op": "list", "after": found[-1].tree if found else ""})
        try:
            entries = document.objects(message.content, "held", self._subject)
            for entry in entries:
                tree = protocol.check_tree(document.text(entry, "id", self._subject))
                process = Process(*(document.integer(entry, key, self._subject) for key in ("pid", "restarts")))
                found.append(_Held(tree, process, message.descriptors.pop(0)))
            return bool(entries) and message.content.get("more") is True
        except (IndexError, CsiOrasError) as error:
            raise StoreBrokenError(self._subject, "says what is not understood", _REMEDY) from error
        finally:
            message.close()

    def _ask(self, content: dict[str, Any], descriptors: Sequence[int] = (), longer: float = 0.0) -> Message:
        seconds = self._patience + longer
        try:
            with self._open(seconds) as connected:
                protocol.send(connected, content, descriptors)
                answer = protocol.receive(connected)
        except UnacceptableError as error:
            raise StoreBrokenError(self._subject, "says what is not understood", _REMEDY) from error
        except TimeoutError as error:
            raise StoreBrokenError(self._subject, f"has not answered for {seconds:g} s", _REMEDY) from error
        except OSError as error:
            raise StoreBrokenError(self._subject, f"does not answer ({error.strerror})", _REMEDY) from error
        if answer is None:
            raise StoreBrokenError(self._subject, "has ended in the midst of a request", "it is asked again")
        if answer.content.get("ok") is not True:
            answer.close()
            raise StoreBrokenError(self._subject, f"refuses: {printable(str(answer.content.get('error')), 300)}")
        return answer

    def _open(self, seconds: float | None) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connected.settimeout(self._patience)
            connected.connect(os.fspath(self._path))
            is_root = protocol.is_root(connected)
            connected.settimeout(seconds)
        except OSError as error:
            connected.close()
            cause = f"is not there ({error.strerror or error})"
            raise StoreBrokenError(self._subject, cause, "lazy volumes need it") from error
        if not is_root:
            connected.close()
            raise StoreBrokenError(self._subject, "is not root's", "look at who made that socket")
        return connected

    @classmethod
    def _start(cls, path: Path, state_dir: Path) -> Self:
        log, until = state_dir.absolute() / "mounter.log", time.monotonic() + _START_SECONDS
        process = _spawn(path, state_dir, log)
        threading.Thread(target=process.wait, name="mounter", daemon=True).start()  # whenever that is
        while True:
            try:
                return cls.connect(path)
            except StoreBrokenError:
                if process.poll() is not None or time.monotonic() >= until:
                    raise StoreBrokenError(f"mounter at {path}", "cannot be started", f"see {log}") from None
            time.sleep(_LOOK_SECONDS)


def _spawn(path: Path, state_dir: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a mounter in a session of its own; it writes to a file, for our own streams may end with us."""
    command = [sys.executable, "-m", "csi_oras", "mounter", "--endpoint", f"unix://{path}", "--state-dir"]
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size > _LARGEST_LOG:
                os.ftruncate(descriptor, 0)
            return subprocess.Popen(  # noqa: S603 (this program)
                [*command, str(state_dir.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreBrokenError(f"mounter at {path}", f"cannot be started ({error.strerror})") from error
