"""The kubelet, played: the calls that it makes for a pod's volumes, with the paths and fields that it uses.

The paths are those of pkg/volume/csi/csi_mounter.go: the directory of a volume is the kubelet's, the `mount` in it
the driver's to make and to remove.
"""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.csi.status import go_name

_HANG_UP_SECONDS = 2.0

_AccessMode = csi_pb2.VolumeCapability.AccessMode
_DEADLINE_SECONDS = 120.0
_POD = "csi.storage.k8s.io/pod."
_EPHEMERAL = "csi.storage.k8s.io/ephemeral"
_CLAIM = "csi.storage.k8s.io/pvc/"

_Response = TypeVar("_Response", bound=Message)
Announce = Callable[[Message], None]


class RefusedError(Exception):
    """A call that the driver did not answer with OK: its code in Go's spelling, and its message."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"rpc error: code = {code} desc = {message}")

    def event(self, volume: str) -> str:
        """The event that the kubelet puts on the pod for it, as `kubectl describe pod` shows it."""
        return f'Warning  FailedMount  MountVolume.SetUp failed for volume "{volume}" : {self}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One volume of one pod."""

    name: str
    volume_id: str
    target: Path
    context: Mapping[str, str]
    access_mode: "_AccessMode.Mode.ValueType"

    @property
    def capability(self) -> csi_pb2.VolumeCapability:
        """What the pod asks for: a file system."""
        return _capability(self.access_mode)


class Kubelet:
    """Makes calls at a driver's socket; each is announced before it is made."""

    def __init__(self, socket: Path, directory: Path, announce: Announce) -> None:
        self._socket = socket
        self._directory = directory
        self._announce = announce
        self.connect()

    def connect(self) -> None:
        """Open the socket, again after the driver's restart."""
        self._channel = grpc.insecure_channel(f"unix:{self._socket}")
        self._identity = csi_pb2_grpc.IdentityStub(self._channel)
        self._controller = csi_pb2_grpc.ControllerStub(self._channel)
        self._node = csi_pb2_grpc.NodeStub(self._channel)

    def close(self) -> None:
        """Hang up; a call that an interrupt cut off can make gRPC wait for ever, so not longer than a moment."""
        closing = threading.Thread(target=self._channel.close, daemon=True)
        closing.start()
        closing.join(_HANG_UP_SECONDS)

    def introduce(self) -> Iterator[Message]:
        """Ask a driver who it is, whether it is well, and which node this is."""
        yield self._call(self._identity.GetPluginInfo, csi_pb2.GetPluginInfoRequest())
        yield self._call(self._identity.Probe, csi_pb2.ProbeRequest())
        yield self._call(self._node.NodeGetInfo, csi_pb2.NodeGetInfoRequest())

    def inline(self, name: str, pod: str, **attributes: str) -> Volume:
        """Return the volume that stands in a pod's own spec, with its attributes."""
        uid = str(uuid.uuid5(uuid.NAMESPACE_URL, pod))
        context = {
            **attributes,
            _EPHEMERAL: "true",
            f"{_POD}name": pod,
            f"{_POD}namespace": "default",
            f"{_POD}uid": uid,
        }
        return Volume(
            name=name,
            volume_id=f"csi-{hashlib.sha256(f'{uid}{name}'.encode()).hexdigest()}",
            target=self._target(uid, name),
            context=context,
            access_mode=_AccessMode.SINGLE_NODE_WRITER,  # what the kubelet says of every inline volume
        )

    def claimed(self, name: str, pod: str, created: csi_pb2.Volume) -> Volume:
        """Return the volume of a claim that is bound to what CreateVolume made."""
        return Volume(
            name=name,
            volume_id=created.volume_id,
            target=self._target(str(uuid.uuid5(uuid.NAMESPACE_URL, pod)), name),
            context=dict(created.volume_context),
            access_mode=_AccessMode.MULTI_NODE_READER_ONLY,
        )

    def publish(self, volume: Volume, deadline: float = _DEADLINE_SECONDS) -> None:
        """Have a volume shown at its target.

        Raises:
            RefusedError: it is not; unless it was ABORTED, nothing of it may be left.
        """
        volume.target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            target_path=str(volume.target),
            volume_capability=volume.capability,
            readonly=True,
            volume_context=volume.context,
        )
        self._call(self._node.NodePublishVolume, request, deadline)

    def unpublish(self, volume: Volume) -> None:
        """Have a volume taken away, and remove the directory that it was in: it must be empty by then."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=str(volume.target))
        self._call(self._node.NodeUnpublishVolume, request)
        if volume.target.parent.exists():
            volume.target.parent.rmdir()

    def statistics(self, volume: Volume) -> list[str]:
        """Ask how large a volume is, by unit."""
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.volume_id, volume_path=str(volume.target))
        response = self._call(self._node.NodeGetVolumeStats, request)
        return [f"{csi_pb2.VolumeUsage.Unit.Name(usage.unit)}: {usage.used}" for usage in response.usage]

    def create_volume(self, claim: str, **parameters: str) -> csi_pb2.Volume:
        """Do the external-provisioner's part for a claim: parameters come from its StorageClass."""
        volume_name = f"pvc-{uuid.uuid5(uuid.NAMESPACE_URL, claim)}"
        request = csi_pb2.CreateVolumeRequest(
            name=volume_name,
            volume_capabilities=[_capability(_AccessMode.MULTI_NODE_READER_ONLY)],
            parameters={
                **parameters,
                f"{_CLAIM}name": claim,
                f"{_CLAIM}namespace": "default",
                "csi.storage.k8s.io/pv/name": volume_name,
            },
        )
        return self._call(self._controller.CreateVolume, request).volume

    def delete_volume(self, created: csi_pb2.Volume) -> None:
        """Do the external-provisioner's part when the claim is deleted."""
        self._call(self._controller.DeleteVolume, csi_pb2.DeleteVolumeRequest(volume_id=created.volume_id))

    def _target(self, uid: str, name: str) -> Path:
        return self._directory / "pods" / uid / "volumes" / "kubernetes.io~csi" / name / "mount"

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[Any, _Response]", request: Message, deadline: float = 30.0
    ) -> _Response:
        self._announce(request)
        # by a future, for a wait in Python ends with Ctrl-C and one in C++ may not
        future = method.future(request, timeout=deadline)
        try:
            return future.result()
        except grpc.RpcError as error:
            raise RefusedError(go_name(future.code()), future.details() or "") from error
        except BaseException:
            future.cancel()
            raise


def _capability(mode: "_AccessMode.Mode.ValueType") -> csi_pb2.VolumeCapability:
    mount = csi_pb2.VolumeCapability.MountVolume()
    return csi_pb2.VolumeCapability(mount=mount, access_mode=_AccessMode(mode=mode))
