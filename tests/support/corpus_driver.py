"""A driver among canaries: a real one, in a mount namespace where the machine's own files are read-only.

Whatever a row of the corpus makes it do, everything around its volumes must stay as it is; `Watch` compares.
"""

import errno
import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.corpus import Expectation, assert_message, assert_shows
from tests.support.driver import Driver

_CHECKOUT = Path(__file__).parents[2]
_READ_ONLY = ("/etc", "/usr", "/root", "/var", str(_CHECKOUT))
_SCRIPT = """
cut -d' ' -f5 /proc/self/mountinfo | grep -vxF "$KUBELET" | while read -r mount; do mount --make-private "$mount"; done
for place in $READ_ONLY; do mount --bind "$place" "$place" && mount -o remount,bind,ro "$place" || exit 1; done
cd "$DIRECTORY" && exec "$@"
"""
_POLICY = "limits: {files: 1000, artifactBytes: 72Mi}\n"
_MOST_RESIDENT = 256 << 20
_MOST_THREADS, _MOST_FILES = 100, 200


class Watch:
    """A driver's folder: the driver's own state, the kubelet's, and canaries that must never change."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.canary = base / "canary"
        self._before: dict[str, tuple[Any, ...]] = {}
        self._numbers = count(1)

    @contextmanager
    def running(self) -> Iterator["Watch"]:
        """Run the driver in memory, whose syncs wait for nobody's disk; its mounts are shared with us and no others."""
        _mount("-t", "tmpfs", "-o", "size=2g,mode=0700", "tmpfs", self.base)
        try:
            self._sow()
            kubelet = self.base / "kubelet"
            _mount("--bind", kubelet, kubelet)
            _mount("--make-private", kubelet)
            _mount("--make-shared", kubelet)
            with self._driver() as self.driver:
                self._before = self.snapshot()
                yield self
            _unmount(kubelet)
        finally:
            _unmount(self.base)

    def _driver(self) -> Driver:
        environment = {
            "KUBELET": str(self.base / "kubelet"),
            "READ_ONLY": " ".join(_READ_ONLY),
            "DIRECTORY": str(self.base / "cwd"),
        }
        runner = ("unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", _SCRIPT, "sh")
        policy = self.base / "policy.yaml"
        policy.write_text(_POLICY)
        return Driver(self.base, "--config", str(policy), environment=environment, runner=runner)

    @property
    def words(self) -> dict[str, str]:
        """What stands for the canaries in the corpus."""
        inside = str(self.canary).removeprefix("/")
        return {"canary": str(self.canary), "inside": inside, "up": "/".join([".."] * 12)}

    def _sow(self) -> None:
        for name in ("canary", "cwd", "out-evil", "tree-evil", "state/trees-evil", "state/staging-evil", "state/trees"):
            (self.base / name).mkdir(parents=True)
            if name != "state/trees":
                (self.base / name / "sentinel").write_text(name)
        (self.base / "state").chmod(0o700)
        (self.base / "kubelet").mkdir()
        (self.base / "kubelet" / "link").symlink_to(self.canary)
        for victim in (self.base / "victim", self.canary / "victim"):
            victim.write_text("victim")
            victim.chmod(0o600)

    def run(self, expected: Expectation, *words: str, **request: Any) -> None:
        """Publish a volume, hold the outcome to its verdict, and take it away again."""
        number = next(self._numbers)
        target = self.driver.target(pod=f"row-{number}")
        arguments = {"target": target, "volume_id": f"row-{number}", "pullPolicy": "Always", **request}
        try:
            self.driver.publish(**arguments)
        except grpc.RpcError as error:
            self._refused(expected, error, *words)
            assert not target.exists()
            return
        try:
            assert expected.verdict in ("mounted", "either"), f"it is mounted: {os.listdir(target)}"  # noqa: PTH208
            assert_shows(target, expected.names)
            _assert_read_only(target)
        finally:
            self.driver.unpublish(target, volume_id=arguments["volume_id"])

    def _refused(self, expected: Expectation, error: Any, *words: str) -> None:
        assert expected.verdict in ("refused", "either"), error.details()
        assert error.code().name in expected.code.split("|"), (error.code(), error.details())
        assert_message(error.details(), expected, *words)

    def check(self) -> None:
        """Hold everything but the driver's own work to what it was."""
        assert self.driver.mounts() == []
        assert os.listdir(self.driver.state / "staging") == []  # noqa: PTH208 (a list of names)
        assert self.snapshot() == self._before

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        """Return what there is outside of what the driver and the kubelet keep, and what is in it."""
        return {
            str(path): _signature(path)
            for name in ("", "canary", "cwd", "out-evil", "tree-evil", "state/trees-evil", "state/staging-evil")
            for path in ((self.base / name).iterdir() if not name else (self.base / name).rglob("*"))
            if path.name not in ("state", "kubelet", "driver.log", "csi.sock")
        }

    def assert_trees_are_their_plans(self) -> None:
        """Hold every file that trees share to the digest in its name: nothing was ever written through one."""
        for path in (*(self.driver.state / "blobs").rglob("*"), *(self.driver.state / "objects").rglob("*")):
            if path.is_file():
                name = path.name.partition("-")[0]
                hasher = {64: hashlib.sha256, 128: hashlib.sha512}[len(name)]
                assert hasher(path.read_bytes()).hexdigest() == name, path

    def resident(self) -> int:
        """Return the most memory in bytes that the driver ever had."""
        assert self.driver.process
        status = Path(f"/proc/{self.driver.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def assert_modest(self) -> None:
        """Hold the driver's memory to its bound, and see that no refusal left a thread or an open file behind."""
        assert self.driver.process
        process = Path(f"/proc/{self.driver.process.pid}")
        assert self.resident() < _MOST_RESIDENT
        assert len(list((process / "task").iterdir())) < _MOST_THREADS
        assert len(list((process / "fd").iterdir())) < _MOST_FILES


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", place], check=True)


def _signature(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20 else b""
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, content


def _assert_read_only(target: Path) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (its number is what counts)
        os.mkdir(target / "new")  # noqa: PTH102
    assert caught.value.errno == errno.EROFS
