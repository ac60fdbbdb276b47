"""Requests: from protobuf messages to the values that the core works with, each field checked once."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from csi_oras.csi.pb import csi_pb2
from csi_oras.errors import InvalidRequestError, printable
from csi_oras.telemetry.events import Pod
from csi_oras.telemetry.secrets import Secret
from csi_oras.volume import attributes as volume_attributes
from csi_oras.volume.request import PublishRequest
from csi_oras.volume.templates import claim_variables, pod_variables

LONGEST_ID = 128
LARGEST_MAP = 4096
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EPHEMERAL = "csi.storage.k8s.io/ephemeral"
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_POD_KEYS = tuple(f"csi.storage.k8s.io/pod.{key}" for key in ("name", "namespace", "uid"))
_MOUNT_FLAGS = frozenset({"ro", "nosuid", "nodev", "noexec"})

_Mode = csi_pb2.VolumeCapability.AccessMode
ACCESS_MODES = frozenset(
    {
        _Mode.SINGLE_NODE_WRITER,
        _Mode.SINGLE_NODE_SINGLE_WRITER,
        _Mode.SINGLE_NODE_MULTI_WRITER,
        _Mode.SINGLE_NODE_READER_ONLY,
        _Mode.MULTI_NODE_READER_ONLY,
    }
)
"""An artifact is read everywhere. SINGLE_NODE_WRITER is what the kubelet says of every inline volume; of claims it says
SINGLE_NODE_MULTI_WRITER for ReadWriteOnce, and SINGLE_NODE_SINGLE_WRITER for ReadWriteOncePod.

What pods write is never shared, whether on one node or several: each volume at each target has a layer of its own.
"""
_READER_ONLY = frozenset({_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY})


def parse_publish(request: csi_pb2.NodePublishVolumeRequest) -> PublishRequest:
    """Check a NodePublishVolume request.

    Raises:
        InvalidRequestError: a field is missing or cannot be served.
    """
    context = request.volume_context
    volume_id = parse_volume_id(request.volume_id)
    target = required(request.target_path, "target_path")
    if not request.HasField("volume_capability"):
        raise _missing("volume_capability")
    check_capabilities([request.volume_capability])
    check_map(context, "volume_context")
    inline = context.get(_EPHEMERAL) == "true"
    if inline and not all(context.get(key) for key in _POD_KEYS):
        raise InvalidRequestError(
            "inline volume",
            "comes without its pod's name",
            "set podInfoOnMount: true in the CSIDriver object",
        )
    variables = pod_variables(context) if inline else claim_variables(context)
    name, namespace, uid = (context.get(key, "") for key in _POD_KEYS)
    wanted = dict(context)
    flags = request.volume_capability.mount.mount_flags
    if "noexec" in flags:
        wanted["noexec"] = "true"
    attributes = volume_attributes.parse(wanted, variables)
    if request.readonly or "ro" in flags or request.volume_capability.access_mode.mode in _READER_ONLY:
        attributes = attributes.read_only()
    return PublishRequest(
        volume_id=volume_id,
        target=target,
        attributes=attributes,
        fingerprint=_fingerprint(request),
        secret=parse_secrets(request.secrets),
        tokens=_tokens(request),
        is_exclusive=request.volume_capability.access_mode.mode == _Mode.SINGLE_NODE_SINGLE_WRITER,
        pod="/".join(filter(None, (namespace, name))),
        owner=Pod.find(name, namespace, uid),
    )


def parse_volume_id(volume_id: str) -> str:
    """Check a volume id: any text without control characters up to 128 bytes; it never becomes a path.

    Raises:
        InvalidRequestError: it is missing, too long, or holds control characters.
    """
    if len(required(volume_id, "volume_id").encode()) > LONGEST_ID:
        raise InvalidRequestError("volume_id", f"is longer than {LONGEST_ID} bytes")
    if _CONTROL.search(volume_id):
        raise InvalidRequestError(f'volume_id "{printable(volume_id, 80)}"', "holds control characters")
    return volume_id


def parse_secrets(secrets: Mapping[str, str]) -> dict[str, Secret]:
    """Wrap the values of a secret, so that nothing can show them; what the cluster adds is none of it."""
    return {key: Secret(value) for key, value in secrets.items() if not volume_attributes.is_from_kubernetes(key)}


def _tokens(request: csi_pb2.NodePublishVolumeRequest) -> Secret | None:
    """Return the pod's service-account tokens, which newer clusters send among the secrets (KEP-5538)."""
    text = request.secrets.get(_TOKENS) or request.volume_context.get(_TOKENS)
    return Secret(text) if text else None


def required(value: str, field: str) -> str:
    """Return a field's value.

    Raises:
        InvalidRequestError: it is empty.
    """
    if not value:
        raise _missing(field)
    return value


def check_map(values: Mapping[str, str], field: str) -> None:
    """Hold a map to the size that the specification allows.

    Raises:
        InvalidRequestError: it is larger than 4 KiB without what the cluster adds, or not to be shown.
    """
    own = {key: value for key, value in values.items() if not volume_attributes.is_from_kubernetes(key)}
    if sum(len(key.encode()) + len(value.encode()) for key, value in own.items()) > LARGEST_MAP:
        raise InvalidRequestError(field, f"is larger than {LARGEST_MAP} bytes", "shorten its values")


def check_capabilities(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    """Let capabilities pass that a volume of ours has.

    Raises:
        InvalidRequestError: a block volume, a writable access mode, or a mount flag that is not understood.
    """
    for capability in capabilities:
        if capability.HasField("block"):
            raise InvalidRequestError("volume_capability", "asks for a block volume", "set volumeMode: Filesystem")
        if not capability.HasField("mount"):
            raise InvalidRequestError("volume_capability", "names no access type", "set mount")
        if capability.access_mode.mode not in ACCESS_MODES:
            mode = _Mode.Mode.Name(capability.access_mode.mode)
            raise InvalidRequestError(
                "volume_capability",
                f"access mode {mode} is not served: nothing that is written is shared",
                "set accessModes: [ReadOnlyMany], or [ReadWriteOnce] for a volume that is written back",
            )
        for flag in capability.mount.mount_flags:
            if flag not in _MOUNT_FLAGS:
                known = ", ".join(sorted(_MOUNT_FLAGS))
                raise InvalidRequestError(
                    f'mount flag "{printable(flag, 40)}"', "is not served", f"leave it out, or use {known}"
                )


def are_read_only(capabilities: Iterable[csi_pb2.VolumeCapability]) -> bool:
    """Say whether nobody may write by any of them."""
    return all(capability.access_mode.mode in _READER_ONLY for capability in capabilities)


def _fingerprint(request: csi_pb2.NodePublishVolumeRequest) -> str:
    """Digest what a user asked for; what the cluster adds may change between two calls for one volume."""
    own: list[Any] = sorted(
        (key, value) for key, value in request.volume_context.items() if not volume_attributes.is_from_kubernetes(key)
    )
    capability = request.volume_capability
    flags = sorted(capability.mount.mount_flags)
    seen = [own, request.readonly, int(capability.access_mode.mode), flags]
    return hashlib.sha256(json.dumps(seen, separators=(",", ":")).encode()).hexdigest()


def _missing(field: str) -> InvalidRequestError:
    return InvalidRequestError(field, "is missing", "the CSI specification requires it")
