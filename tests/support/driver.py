"""A real driver process behind a real socket, and a kubelet's view of it."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.demo.distribution import held_port
from tests.support import outputs
from tests.support.planted import planted

_AT_ONCE = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50)]
"""A driver that starts is asked again soon; by itself a channel waits for a second, and then longer."""

SINGLE_NODE_WRITER = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
MULTI_NODE_READER_ONLY = csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY


def mount_capability(mode: Any = SINGLE_NODE_WRITER, flags: tuple[str, ...] = ()) -> csi_pb2.VolumeCapability:
    """A file system volume of an access mode."""
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=flags),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=mode),
    )


def pod_context(name: str = "pod", namespace: str = "default", uid: str = "uid-1") -> dict[str, str]:
    """What the kubelet adds to an inline volume's context."""
    return {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": name,
        "csi.storage.k8s.io/pod.namespace": namespace,
        "csi.storage.k8s.io/pod.uid": uid,
        "csi.storage.k8s.io/serviceAccount.name": "default",
    }


class Driver:
    """`csi-oras serve` with a state, a kubelet directory and a socket of its own; use it in a with statement."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        mode: str = "all",
        environment: Mapping[str, str] | None = None,
        runner: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.kubelet = directory / "kubelet"
        self.socket = directory / "csi.sock"
        self._held = contextlib.ExitStack()
        self.metrics_port = self._held.enter_context(held_port())
        self.mode = mode
        self.flags = flags
        self._channels: list[grpc.Channel] = []
        self.environment = dict(environment or {})
        self.runner = runner  # a command that becomes the driver's
        self.process: subprocess.Popen[bytes] | None = None
        self._kept_log = 0
        self.kubelet.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        """All log lines so far."""
        path = self.directory / "driver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start the process and wait until it serves."""
        command = [
            *self.runner, sys.executable, "-m", "csi_oras", "serve", "--mode", self.mode,
            "--endpoint", f"unix://{self.socket}", "--node-id", "node-1",
            "--state-dir", str(self.state), "--kubelet-dir", str(self.kubelet),
            "--metrics-address", f"127.0.0.1:{self.metrics_port}",
            "--service-account-dir", str(self.directory / "no-account"),  # not that of a pod that runs the tests
            *self.flags,
        ]  # fmt: skip
        with (self.directory / "driver.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
            )
        channel = grpc.insecure_channel(f"unix:{self.socket}", options=_AT_ONCE)
        self._channels.append(channel)
        heard = grpc.intercept_channel(channel, outputs.Listener())
        self.identity = csi_pb2_grpc.IdentityStub(heard)
        self.node = csi_pb2_grpc.NodeStub(heard)
        self.controller = csi_pb2_grpc.ControllerStub(heard)
        self._wait()
        return self

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"the driver ended: {self.log[-3000:]}"
            try:
                self.identity.Probe(csi_pb2.ProbeRequest(), timeout=1)
            except grpc.RpcError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the driver does not serve: {self.log[-3000:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process, by SIGTERM or harder, and wait for it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            if number == signal.SIGTERM:
                with contextlib.suppress(OSError):
                    self._exposition()
            self.process.send_signal(number)
            self.process.wait(20)
        self.process = None
        outputs.KEPT.keep("logs", self.log[self._kept_log :])
        self._kept_log = len(self.log)

    def kill(self) -> None:
        """Kill -9."""
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def mounter(self) -> int:
        """The process id of the mounter that the driver has started, 0 for none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
            try:
                connected.connect(str(self.state / "mounter.sock"))
            except OSError:
                return 0
            return int(struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    def end_mounter(self) -> None:
        """Kill -9 the mounter, if there is one, and all that it holds."""
        if process := self.mounter():
            os.kill(process, signal.SIGKILL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for channel in self._channels:  # not sooner: gRPC crashes where one is closed under the calls of other threads
            channel.close()
        self.unmount_all()
        self.end_mounter()
        self._held.close()

    def unmount_all(self) -> None:
        """Take away what a test left mounted, so that it hurts only that test."""
        for target in self.mounts():
            subprocess.run(["umount", "-l", target], check=False)

    def mounts(self) -> list[str]:
        """Every mount below the kubelet directory, as the kernel lists them."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        prefix = f"{self.kubelet}/"
        return [target for line in lines if (target := line.split(" ")[4]).startswith(prefix)]

    def target(self, name: str = "volume", pod: str = "uid-1") -> Path:
        """A target path as the kubelet makes them, with its parent there."""
        path = self.kubelet / "pods" / pod / "volumes" / "kubernetes.io~csi" / name / "mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(
        self,
        target: Path | str,
        *,
        volume_id: str = "volume-1",
        secrets: Mapping[str, str] | None = None,
        capability: csi_pb2.VolumeCapability | None = None,
        readonly: bool = True,
        timeout: float = 60,
        **attributes: str,
    ) -> None:
        """NodePublishVolume, with `attributes` as the volume context, and a password in `secrets` planted."""
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume_id,
            target_path=str(target),
            volume_capability=capability or mount_capability(),
            readonly=readonly,
            secrets={key: planted(value) if key == "password" else value for key, value in (secrets or {}).items()},
            volume_context=attributes,
        )
        self.node.NodePublishVolume(request, timeout=timeout)

    def unpublish(self, target: Path | str, *, volume_id: str = "volume-1", timeout: float = 60) -> None:
        """NodeUnpublishVolume."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(target))
        self.node.NodeUnpublishVolume(request, timeout=timeout)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        lines = self._exposition().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def _exposition(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as response:
            text = str(response.read().decode())
        outputs.KEPT.keep("metrics", text)
        return text
