"""A mounter, and drivers for it: whatever goes wrong, every connection is aborted in the end, so that nobody hangs.

`python -m tests.support.mounting DIRECTORY COUNT` is such a driver that can be killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError
from csi_oras.mount import fuse
from csi_oras.mount.target import Target
from csi_oras.mounter.client import Mounter
from csi_oras.telemetry import logs
from tests.support.fuse_driver import FakeDriver, Source
from tests.support.fuse_mounting import digest_of, plan_of

_ROOT = Path(__file__).parents[2]
_LONGEST_SECONDS = 110


def name_of(number: int) -> str:
    """Return the name of a tree."""
    return f"{number:064x}"


def eventually(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Return when something has become true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class RunningMounter:
    """`csi-oras mounter`; ends with the with statement, and so do its processes and every lazy mount below."""

    def __init__(self, directory: Path, *, before: str = "") -> None:
        """Have it run a script of the test's before it starts."""
        self._program = f"{before}\nfrom csi_oras.cli import main\nmain()"
        self.directory = directory
        self.state = directory / "state"
        self.socket = directory / "mounter.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Mounter(self.socket)
        self._watchdog = threading.Timer(_LONGEST_SECONDS, self.abort)

    def __enter__(self) -> Self:
        self.state.mkdir()
        self._watchdog.start()
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchdog.cancel()
        self.abort()
        self.kill()

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start the program."""
        command = [sys.executable, "-c", self._program, "mounter", "--endpoint", f"unix://{self.socket}"]
        with (self.directory / "mounter.log").open("ab") as log:
            return subprocess.Popen([*command, "--state-dir", str(self.state)], stderr=log, cwd="/")

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        self.process = self.spawn()
        eventually(self._answers, f"the mounter does not answer: {self.log[-2000:]}")
        return self

    def end(self, number: int) -> None:
        """End it by a signal; its processes are gone by then."""
        assert self.process
        children = self.children()
        self.process.send_signal(number)
        self.process.wait(20)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "a process lives on")

    def kill(self) -> None:
        """Kill -9."""
        self.end(signal.SIGKILL)

    def children(self) -> list[int]:
        """Return its processes."""
        assert self.process
        return children_of(self.process.pid)

    def descriptors(self) -> list[str]:
        """Return what it has open itself when nobody is connected."""
        assert self.process
        pid = self.process.pid
        eventually(lambda: descriptors_of(pid).count("socket") == 1, "a connection is left")
        return descriptors_of(pid)

    @property
    def log(self) -> str:
        """All that it and its processes have said."""
        return (self.directory / "mounter.log").read_text()

    def abort(self) -> None:
        """End every connection, and take every mount away."""
        for mount in fuse.mounts():
            if mount.target.startswith(f"{self.directory}/"):
                fuse.abort(mount.minor)
                with suppress(OSError):
                    kernel.unmount(mount.target, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)

    def _answers(self) -> bool:
        try:
            self.client.processes()
        except StoreBrokenError:
            return False
        return True


class HoldingDriver:
    """What a driver does with lazy volumes: it mounts them, holds their devices, and hands out bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lazy = directory / "state" / "lazy"
        self.mounter = Mounter(directory / "mounter.sock")
        self.devices: dict[str, int] = {}
        self.files = FakeDriver(self.lazy / "driver.sock")
        self._backing = directory / f"backing.{os.getpid()}"

    def __enter__(self) -> Self:
        self.lazy.mkdir(parents=True, exist_ok=True)
        self._backing.mkdir()
        self.files.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for device in self.devices.values():
            os.close(device)
        self.files.close()

    def path(self, number: int) -> Path:
        """Return where a tree is mounted."""
        return self.directory / "kubelet" / str(number)

    def add(self, number: int, content: bytes) -> Path:
        """Serve the bytes of a tree, whose only file has that content, and return the path of that file."""
        digest = digest_of(content)
        if digest not in self.files.sources:
            self.files.sources[digest] = Source(content, self._backing, digest)
        directory = self.lazy / name_of(number)
        directory.mkdir(exist_ok=True)
        (directory / "plan.json").write_text(json.dumps(plan_of({"file": content})))
        return self.path(number) / "file"

    def mount(self, number: int) -> int:
        """Mount a tree, have the mounter hold it, and return the minor number of its device."""
        device = fuse.open_device()
        detached = fuse.mount(device, name_of(number), noexec=False)
        try:
            fuse.greet(device)
            fuse.read_ahead(detached)
            self.hold(number, device)
            self.devices[name_of(number)] = device
            self.path(number).mkdir(parents=True, exist_ok=True)
            target = Target.open(str(self.path(number)), self.directory / "kubelet")
            assert target
            with target:
                fuse.attach(detached, target)
            return kernel.device_minor(detached)
        finally:
            os.close(detached)

    def unmount(self, number: int) -> None:
        """Take a mount away, and let go of its device."""
        kernel.unmount(str(self.path(number)), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        os.close(self.devices.pop(name_of(number)))

    def hold(self, number: int, device: int) -> None:
        """Have the mounter hold a tree."""
        name = name_of(number)
        self.mounter.hold(name, device, self.lazy / name / "plan.json", self.files.path)

    def meet(self) -> None:
        """Take what only the mounter holds, and give it what only we hold."""
        held = self.mounter.list()
        for name, device in held.items():
            if name in self.devices:
                os.close(device)
            else:
                self.devices[name] = device
        for name in self.devices.keys() - held.keys():
            self.hold(int(name, 16), self.devices[name])

    def accompany(self) -> None:
        """Meet every mounter, for ever."""
        threading.Thread(target=self._accompany, daemon=True).start()

    def _accompany(self) -> None:
        while True:
            with suppress(StoreBrokenError):
                self.mounter.wait_until_gone(self.meet)
            time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    """Return the processes that one has begun."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def descriptors_of(pid: int) -> list[str]:
    """Return what a process has open, without the numbers of sockets."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(descriptor.readlink()).partition(":[")[0])
    return sorted(found)


class MortalDriver:
    """A driver of `count` trees, whose contents are in `truth`, as a process of its own."""

    def __init__(self, directory: Path, count: int) -> None:
        self._command = [sys.executable, "-m", "tests.support.mounting", str(directory), str(count)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when it has all of its trees."""
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout
        with self._process.stdout as said:
            assert said.readline() == b"ready\n"

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._process.wait()


def _main(directory: Path, count: int) -> None:
    with HoldingDriver(directory) as driver:
        driver.files.goes_on.clear()  # until we have all that may be asked for
        for number in range(count):
            driver.add(number, (directory / "truth" / str(number)).read_bytes())
        logs.configure("text")
        driver.files.delay = 0.02
        driver.files.goes_on.set()
        driver.meet()
        for number in range(count):
            if name_of(number) not in driver.devices:
                driver.mount(number)
        driver.accompany()
        print("ready", flush=True)  # noqa: T201 (what the test waits for)
        threading.Event().wait()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
