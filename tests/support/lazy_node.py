"""A node with lazy volumes, whose processes can be killed, and pods that read them and hold each byte against another.

Whatever a test does, it ends with nothing mounted and no process left.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from csi_oras.mount import fuse
from tests.support import fuse_reading
from tests.support.driver import Driver
from tests.support.outside import Outside
from tests.support.pods import wait_for

MIB = 1 << 20
PIECES = "pulls: {rangeBytes: 1Mi, parallelRanges: 2}\nstore: {minAge: 0s}\n"
"""Node policy by which all that is larger than a chunk comes in pieces, and nothing is too young to be collected."""
_GONE_SECONDS = 30


@dataclass(frozen=True)
class Connection:
    """A connection of a lazy volume that stands in our mount namespace: where, and the kernel's number for it."""

    target: str
    minor: int


class LazyNode(Driver):
    """A driver with a mounter of its own, by a policy of its own; use it in a with statement."""

    def __init__(self, directory: Path, *flags: str, policy: str = PIECES, **options: Any) -> None:
        self._policy = directory / "policy.yaml"
        self._policy.write_text(policy)
        super().__init__(directory, "--config", str(self._policy), *flags, **options)
        self._numbers = count(1)

    def show(self, reference: str, name: str = "", **attributes: Any) -> Path:
        """Publish a lazy volume, and return where; its id is its name."""
        name = name or f"lazy-{next(self._numbers)}"
        target = self.target(name)
        self.publish(target, volume_id=name, reference=reference, **{"mode": "lazy", **attributes})
        return target

    def hide(self, *targets: Path, timeout: float = 30) -> None:
        """Unpublish what was shown."""
        for target in targets:
            self.unpublish(target, volume_id=target.parent.name, timeout=timeout)

    def serving(self) -> list[int]:
        """The processes that serve lazy volumes."""
        return _children(self.mounter())

    def kill_serving(self) -> None:
        """Kill -9 every process that serves, and return when each is gone; others take their places."""
        for process in self.serving():
            kill(process)

    def kill_mounter(self) -> None:
        """Kill -9 the mounter, with which all that it holds ends, and return when all are gone."""
        if mounter := self.mounter():
            children = _children(mounter)
            kill(mounter)
            for child in children:
                _wait_until_gone(child)

    def connections(self) -> list[Connection]:
        """The mounts of lazy volumes on this node."""
        here = f"{self.kubelet}/"
        return [Connection(one.target, one.minor) for one in fuse.mounts() if one.target.startswith(here)]

    def devices(self) -> int:
        """How many descriptors of `/dev/fuse` driver and mounter have."""
        held = [self.mounter(), self.process.pid if self.process else 0]
        return sum(link == "/dev/fuse" for process in filter(None, held) for link in _links(process))

    def are_held(self) -> bool:
        """Say whether driver and mounter both hold every connection, so that either may die."""
        trees = {one.minor for one in self.connections()}
        return len(self.serving()) >= len(trees) and self.devices() >= 2 * len(trees)

    def wait_until_held(self, trees: int = 1) -> None:
        """Return when driver and mounter both hold each connection, so that either may die."""
        wait_for(lambda: len(self.serving()) == trees and self.devices() == 2 * trees)

    def collect(self) -> None:
        """Have all collected that nobody holds."""
        options = ["--state-dir", str(self.state), "--config", str(self._policy)]
        command = [sys.executable, "-m", "csi_oras", "store", "gc", "--all", *options]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def leftovers(self) -> dict[str, Any]:
        """What is here of lazy volumes when there should be nothing, by its kind."""
        found: dict[str, Any] = {
            "mounts": self.connections(),
            "processes": self.serving(),
            "descriptors": self.devices(),
            "kept": [path.name for path in (self.state / "lazy").iterdir() if path.is_dir()],
            "leases": [holder for (holder,) in Outside(self.state).rows("leases", "holder") if "lazy" in str(holder)],
        }
        return {kind: what for kind, what in found.items() if what}

    def check_nothing_is_left(self) -> None:
        """See to it that nothing is left of volumes that were unpublished, soon."""
        until = time.monotonic() + _GONE_SECONDS
        while (left := self.leftovers()) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left, left

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop(signal.SIGKILL if kind else signal.SIGTERM)
            for connection in self.connections():
                fuse.abort(connection.minor)
            self.kill_mounter()
        finally:
            super().__exit__(kind, error, trace)


def _links(process: int) -> list[str]:
    found = []
    with suppress(OSError):
        for path in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                found.append(str(path.readlink()))
    return found


def _children(process: int) -> list[int]:
    if not process:
        return []
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def kill(process: int) -> None:
    """Kill -9 a process that need not be ours, and return when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    _wait_until_gone(process)


def _wait_until_gone(process: int) -> None:
    wait_for(lambda: _is_over(process))


def _is_over(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"  # whose parent has not looked yet


class Readers:
    """Processes that read a file, each in its own way, and hold every byte against the truth; use it in a with."""

    def __init__(
        self, path: Path, truth: Path, *, seconds: float = 0, kinds: Sequence[str] = fuse_reading.KINDS
    ) -> None:
        """Have them read at least once through, and for so many seconds."""
        self._commands = [
            [sys.executable, fuse_reading.__file__, kind, str(path), str(truth), str(seconds)] for kind in kinds
        ]
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        for command in self._commands:
            self._running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return self

    def are_at_it(self) -> bool:
        """Say whether some have not ended."""
        return any(reader.poll() is None for reader in self._running)

    def check(self, seconds: float = 60) -> list[str]:
        """Return what each has said, when all have ended, none with an error or a wrong byte."""
        said = [reader.communicate(timeout=seconds)[0] for reader in self._running]
        assert [reader.returncode for reader in self._running] == [0] * len(said), said
        return said

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._running:
            reader.kill()
        for reader in self._running:
            reader.communicate()
