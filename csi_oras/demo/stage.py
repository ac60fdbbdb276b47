"""The stage: a registry, a driver and a kubelet directory, all below one temporary directory, and their removal."""

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc

from csi_oras import kernel
from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.demo import distribution
from csi_oras.demo.distribution import Distribution, held_port
from csi_oras.demo.interrupts import Interrupts
from csi_oras.errors import InvalidConfigError
from csi_oras.mount import mountinfo

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOG_LINES = 10
_LONGEST_TEMPORARY = 50
"""Characters of a directory for temporary files below which a socket's path may still be written."""


class Stage:
    """What the tour plays on; `tear_down` removes as much as `set_up` came to, in the opposite order."""

    registry: Distribution

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._undo = ExitStack()
        self._driver: subprocess.Popen[bytes] | None = None
        self.directory = Path()
        self.metrics_port = 0

    @property
    def socket(self) -> Path:
        """Where the driver is called."""
        return self.directory / "csi.sock"

    @property
    def kubelet(self) -> Path:
        """The kubelet's directory."""
        return self.directory / "kubelet"

    @property
    def state(self) -> Path:
        """The driver's store."""
        return self.directory / "state"

    @property
    def log(self) -> Path:
        """What the driver writes."""
        return self.directory / "driver.log"

    @property
    def driver_pid(self) -> int:
        """The process id of the driver."""
        return self._driver.pid if self._driver else 0

    def set_up(self) -> None:
        """Make the directory and start the registry.

        Raises:
            InvalidConfigError: the registry does not come up.
        """
        with self._interrupts.held():
            parent = tempfile.gettempdir()
            parent = parent if len(parent) <= _LONGEST_TEMPORARY else "/tmp"  # noqa: S108 (mkdtemp makes it safe)
            # as the kernel will name it in mountinfo: without symbolic links
            self.directory = Path(tempfile.mkdtemp(prefix="csi-oras-demo-", dir=parent)).resolve()
            self._undo.callback(self._remove_directory)
            self.kubelet.mkdir()
            self.metrics_port = self._undo.enter_context(held_port())
            self.registry = self._undo.enter_context(Distribution(self.directory / "registry"))
            self._undo.callback(self._unmount)
            self._undo.callback(self._stop_driver)

    def driver_command(self) -> list[str]:
        """Return the command that starts the driver."""
        return [
            sys.executable, "-m", "csi_oras", "serve", "--mode", "all", "--node-id", "demo-node",
            "--endpoint", f"unix://{self.socket}", "--state-dir", str(self.state), "--kubelet-dir", str(self.kubelet),
            "--metrics-address", f"127.0.0.1:{self.metrics_port}", "--log-format", "text",
            "--service-account-dir", str(self.directory / "no-account"),  # its pods are played: no cluster is told
        ]  # fmt: skip

    def start_driver(self) -> float:
        """Start the driver and return after how many seconds it answers.

        Raises:
            InvalidConfigError: it does not come up.
        """
        started = time.monotonic()
        with self._interrupts.held(), self.log.open("ab") as log:
            self._driver = subprocess.Popen(  # noqa: S603 (ourselves)
                self.driver_command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the tour, which then stops it
            )
        while not self._answers():
            if self._driver.poll() is not None or time.monotonic() > started + _START_SECONDS:
                raise InvalidConfigError("the driver", "did not come up", "its log stands below")
        return time.monotonic() - started

    def kill_driver(self) -> None:
        """kill -9."""  # noqa: D403 (the command's name)
        if self._driver:
            self._driver.kill()
            self._driver.wait()

    def last_words(self) -> list[str]:
        """Return the last lines of the logs, which go with the directory."""
        words = []
        for log in (self.directory / "registry" / "registry.log", self.log):
            with suppress(OSError):
                words += [f"{log.name}: {line}" for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:]]
        return words

    def tear_down(self) -> None:
        """Stop, unmount and remove everything."""
        self._undo.close()

    def left_behind(self) -> list[str]:
        """Return what there still is of mounts, processes and the directory, as text for people."""
        if not self.directory.name:  # nothing was made
            return []
        return [
            *(f"mount {target}" for target in self.mounts()),
            *(f"process {process}" for process in self.processes()),
            *([f"directory {self.directory}"] if self.directory.exists() else []),
        ]

    def mounts(self) -> list[str]:
        """Return the targets of all mounts below the directory, the oldest first."""
        below = f"{self.directory}/"
        return [mount.target for mount in mountinfo.read() if mount.target.startswith(below)]

    def processes(self) -> list[int]:
        """Return the ids of the drivers and registries that run on the directory."""
        programs = {sys.executable.encode(), (distribution.program() or "").encode()}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                program, *arguments = (process / "cmdline").read_bytes().split(b"\0")
                if program in programs and any(bytes(self.directory) in argument for argument in arguments):
                    found.append(int(process.name))
        return found

    def _answers(self) -> bool:
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            call = csi_pb2_grpc.IdentityStub(channel).Probe.future(csi_pb2.ProbeRequest(), timeout=5)
            try:
                call.result()
            except grpc.RpcError:
                time.sleep(0.02)
                return False
            return True

    def _stop_driver(self) -> None:
        if self._driver and self._driver.poll() is None:
            self._driver.terminate()
            try:
                self._driver.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill_driver()

    def _unmount(self) -> None:
        for target in reversed(self.mounts()):
            with suppress(OSError):  # the others go all the same, and what stays is told
                kernel.unmount(target, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)

    def _remove_directory(self) -> None:
        if not self.mounts():  # never through a mount
            shutil.rmtree(self.directory, ignore_errors=True)  # what stays is told
