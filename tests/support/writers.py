"""Pods that write: what they do in the three steps of a workflow, and a kubelet that asks for each until it is done."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import grpc

from tests.support.accountant import Accountant
from tests.support.driver import Driver, pod_context
from tests.support.views import View, shown

POLICY = "writeBack: {enabled: true, allow: [{namespaces: [default], references: ['**']}]}\n"
_AGAIN = frozenset({
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,  # the step before is not pushed yet
    grpc.StatusCode.CANCELLED,  # the driver is being started anew
})  # fmt: skip
_MOST_CALLS = 600
_CALL_SECONDS = 60.0


def nothing() -> None:
    """Do nothing between two calls."""


class Writer:
    """A pod with one volume, which is to become `out`."""

    def __init__(self, node: Driver, accountant: Accountant, name: str, out: str) -> None:
        self._node = node
        self._accountant = accountant
        self.name = name
        self.out = out
        self.target = node.target(pod=name)
        self.view: View = {}

    def begin(self, base: str = "", between: Callable[[], None] = nothing, seconds: float = _CALL_SECONDS) -> None:
        """Have the volume shown above a base; `between` happens between two calls."""
        below = {"reference": base, "pullPolicy": "Always"} if base else {}
        context = {**pod_context(self.name), **below, "writeBackReference": self.out}

        def publish() -> None:
            self._node.publish(self.target, volume_id=self.name, readonly=False, timeout=seconds, **context)  # type: ignore[arg-type]

        _until_done(publish, between)

    def note(self) -> None:
        """Tell the accountant what the volume shows, for the pod is done."""
        self.view = shown(self.target)
        self._accountant.wrote(self.name, self.out, self.view)

    def end(self, between: Callable[[], None] = nothing, seconds: float = _CALL_SECONDS) -> None:
        """Have the volume taken away; `between` happens between two calls."""

        def unpublish() -> None:
            self._node.unpublish(self.target, volume_id=self.name, timeout=seconds)

        _until_done(unpublish, between)
        assert not self.target.exists()

    @property
    def entry(self) -> Path | None:
        """Its entry in the outbox."""
        for path in (self._node.state / "outbox").iterdir():
            if not path.name.startswith(".") and self._is_mine(path):
                return path
        return None

    def _is_mine(self, entry: Path) -> bool:
        try:
            return bool(json.loads((entry / "volume.json").read_text())["pod"] == self.name)
        except FileNotFoundError:  # it has gone meanwhile
            return False

    @property
    def failed_attempts(self) -> int:
        """How often it could not be pushed, as far as is known."""
        try:
            state = json.loads((self.entry / "state.json").read_text()) if self.entry else {}
        except FileNotFoundError:
            return 0
        return int(state["attempts"]) if state.get("error") else 0


def _until_done(call: Callable[[], None], between: Callable[[], None]) -> None:
    pause = threading.Event()
    for _ in range(_MOST_CALLS):
        try:
            call()
        except grpc.RpcError as error:
            if error.code() not in _AGAIN:
                raise
        except ValueError as error:  # grpc's word for a channel that is closed: the driver is being started anew
            if "closed channel" not in str(error):
                raise
        else:
            return
        between()
        pause.wait(0.1)
    raise AssertionError("the kubelet would ask for ever")


def _first(volume: Path, salt: bytes) -> None:
    for name in ("a/b", "bin", "packed/nothing", "old/deep"):
        (volume / name).mkdir(parents=True)
    (volume / "numbers").write_bytes(b"".join(b"%d\n" % number for number in range(1000)) + salt)
    (volume / "a" / "b" / "nested").write_bytes(b"nested " + salt)
    (volume / "bin" / "run").write_bytes(b"#!/bin/sh\n# " + salt)
    (volume / "bin" / "run").chmod(0o755)
    (volume / "empty").touch()
    (volume / "packed" / "file").write_bytes(b"packed " + salt)
    (volume / "packed" / "link").symlink_to("file")
    (volume / "old" / "deep" / "file").write_bytes(b"old " + salt)
    (volume / "gone").write_bytes(b"gone " + salt)


def _second(volume: Path, salt: bytes) -> None:
    (volume / "gone").unlink()
    (volume / "sum").write_bytes(b"%d " % (volume / "numbers").stat().st_size + salt)
    with (volume / "numbers").open("ab") as file:
        file.write(b"and more")
    (volume / "a" / "b" / "nested").rename(volume / "a" / "moved")
    (volume / "bin" / "run").chmod(0o644)
    shutil.rmtree(volume / "old")
    (volume / "old").mkdir()  # opaque: what was below it stays hidden
    (volume / "old" / "new").write_bytes(b"new " + salt)


def _third(volume: Path, salt: bytes) -> None:
    (volume / "sum").unlink()
    (volume / "sum").mkdir()
    (volume / "sum" / "total").write_bytes(b"total " + salt)
    (volume / "packed" / "link").unlink()
    (volume / "packed" / "link").write_bytes(b"a file now " + salt)
    (volume / "empty").write_bytes(salt)
    (volume / "a" / "b" / "back").parent.mkdir(exist_ok=True)
    (volume / "a" / "b" / "back").write_bytes(b"back " + salt)


STEPS: tuple[Callable[[Path, bytes], None], ...] = (_first, _second, _third)
"""What the pods of a workflow do in their volumes, one after the other; `salt` makes it theirs."""
