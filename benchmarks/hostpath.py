"""csi-driver-host-path, the Go driver that everybody tests against: a peer for publish and unpublish."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from tests.support.driver import mount_capability


class HostPath:
    """A running host-path driver with one volume, staged; use it in a with statement."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "csi.sock"
        self.volume_id = ""
        self._staging = directory / "staging"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        with (self.directory / "driver.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "hostpathplugin", f"--endpoint=unix://{self.socket}", "--nodeid=node-1",
                    f"--statedir={self.directory / 'state'}",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        try:
            self._prepare()
        except BaseException:
            self._stop()
            raise
        return self

    def _prepare(self) -> None:
        """Wait for the driver, and make and stage the volume; none of that is measured."""
        grpc.channel_ready_future(self._channel).result(timeout=20)
        self.node = csi_pb2_grpc.NodeStub(self._channel)
        self._controller = csi_pb2_grpc.ControllerStub(self._channel)
        created = self._controller.CreateVolume(
            csi_pb2.CreateVolumeRequest(name="bench", volume_capabilities=[mount_capability()])
        )
        self.volume_id = created.volume.volume_id
        self.node.NodeStageVolume(
            csi_pb2.NodeStageVolumeRequest(
                volume_id=self.volume_id, staging_target_path=str(self._staging), volume_capability=mount_capability()
            )
        )

    def publish(self, target: Path) -> None:
        """NodePublishVolume, read-only as ours."""
        self.node.NodePublishVolume(
            csi_pb2.NodePublishVolumeRequest(
                volume_id=self.volume_id,
                staging_target_path=str(self._staging),
                target_path=str(target),
                volume_capability=mount_capability(),
                readonly=True,
            ),
            timeout=60,
        )

    def unpublish(self, target: Path) -> None:
        """NodeUnpublishVolume."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=self.volume_id, target_path=str(target))
        self.node.NodeUnpublishVolume(request, timeout=60)

    def _stop(self) -> None:
        self._channel.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
