"""A lazy volume of a test's own: the mount, a fake driver, and processes that serve it, one after the other.

The test holds the device, as driver and mounter do. Whatever goes wrong, the connection is aborted in the end, so that
no reader hangs for ever.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from csi_oras import kernel
from csi_oras.mount import fuse
from csi_oras.mount.target import Target
from tests.support.fuse_driver import FakeDriver, Source

TREE = "ab" * 32
_SERVE = """
import sys
from pathlib import Path
from csi_oras.fuse import connection
from csi_oras.fuse.program import Settings, run
from csi_oras.telemetry import logs
logs.configure("text")
device, tree, plan, driver, patience, resend = sys.argv[1:]
connection._NOTIFY_RESEND = int(resend)
settings = Settings(device=int(device), tree=tree, plan=Path(plan), driver=Path(driver))
sys.exit(run(settings, patience=float(patience)))
"""
_LONGEST_SECONDS = 110
_RESEND, _UNKNOWN = 7, 999
"""Notifications that the kernel understands, and that it does not, as one before Linux 6.9."""


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class LazyVolume:
    """Files by name, mounted at `path`; nothing serves them before `serve`."""

    def __init__(
        self, directory: Path, files: Mapping[str, bytes], *, patience: float = 30, old_kernel: bool = False
    ) -> None:
        self.directory = directory
        self.files = files
        self.path = directory / "kubelet" / "volume"
        self.plan = directory / "plan.json"
        self.driver = FakeDriver(directory / "driver.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"
        self._patience = patience
        self._resend = _UNKNOWN if old_kernel else _RESEND
        self._watchdog = threading.Timer(_LONGEST_SECONDS, self.abort)

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        backing = self.directory / "backing"
        backing.mkdir()
        for number, content in enumerate(set(self.files.values())):
            self.driver.sources[digest_of(content)] = Source(content, backing, str(number))
        self.plan.write_text(json.dumps(plan_of(self.files)))
        self.driver.start()
        self.device = fuse.open_device()
        detached = fuse.mount(self.device, TREE, noexec=False)
        fuse.greet(self.device)
        fuse.read_ahead(detached)
        self.minor = kernel.device_minor(detached)
        with _target(self.path) as target:
            fuse.attach(detached, target)
        os.close(detached)
        self._watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self.abort()
        self.unmount()
        if self.process:
            self.process.kill()
            self.process.wait()
        os.close(self.device)
        self.driver.close()

    def serve(self) -> "subprocess.Popen[bytes]":
        """Start a process, with the same device as those before it."""
        self.process = self.spawn()
        return self.process

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start a process, for the caller to end."""
        arguments = [self.device, TREE, self.plan, self.driver.path, self._patience, self._resend]
        command = [sys.executable, "-c", _SERVE, *map(str, arguments)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, pass_fds=[self.device], stderr=log)

    def abort(self) -> None:
        """End the connection, if it is still ours."""
        if self._is_mounted():
            fuse.abort(self.minor)

    def unmount(self) -> None:
        """Take the last mount away."""
        if self._is_mounted():
            kernel.unmount(str(self.path), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)

    def _is_mounted(self) -> bool:
        return any(mount.target == str(self.path) and mount.minor == self.minor for mount in fuse.mounts())


def plan_of(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the plan as the driver writes it."""
    entries = [
        {"name": name, "blob": digest_of(content), "size": len(content), "mode": _mode(name)}
        for name, content in files.items()
    ]
    return {"version": 1, "single": False, "entries": entries}


def _target(path: Path) -> Target:
    target = Target.open(str(path), path.parent)
    assert target
    return target


def _mode(name: str) -> int:
    return 0o555 if name.endswith(".sh") else 0o444
