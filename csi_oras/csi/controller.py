"""The controller service: stateless. A volume is its StorageClass parameters with the tag pinned to a digest.

Nothing is provisioned, so ids need no registry of their own: one is the hash of the name and the parameters,
under a prefix that tells ours from others.
"""

import asyncio
import contextvars
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from csi_oras.csi import requests
from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.errors import (
    CsiOrasError,
    InvalidRequestError,
    RegistryUnavailableError,
    VolumeNotFoundError,
    printable,
)
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.registry.credentials import Credential
from csi_oras.transfer.turns import Turns
from csi_oras.volume import attributes as volume_attributes
from csi_oras.volume.templates import claim_variables

_PATIENCE_SECONDS = 8.0
"""external-provisioner gives up after 10, unless it is told otherwise."""
_LONGEST_NAME = 128
_ID = re.compile(r"oras1-[0-9a-f]{64}")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Resolve = Callable[[Reference, Credential | None], Digest]


class Controller(csi_pb2_grpc.ControllerServicer):
    """CreateVolume asks the registry what a tag means now, so that a claim shows the same bytes on every node."""

    def __init__(self, resolve: Resolve, turns: Turns) -> None:
        self._resolve = resolve
        self._turns = turns

    async def ControllerGetCapabilities(
        self,
        request: Any,
        context: Any,
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """Create and delete, also what one pod alone may write; nothing else."""
        kind = csi_pb2.ControllerServiceCapability.RPC
        capabilities = [
            csi_pb2.ControllerServiceCapability(rpc=kind(type=each))
            for each in (kind.CREATE_DELETE_VOLUME, kind.SINGLE_NODE_MULTI_WRITER)
        ]
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=capabilities)

    async def CreateVolume(
        self,
        request: csi_pb2.CreateVolumeRequest,
        context: Any,
    ) -> csi_pb2.CreateVolumeResponse:
        """Pin the artifact; its size is unknown (0), so that the claim's own is taken."""
        name = _parse_name(request.name)
        if not request.volume_capabilities:
            raise InvalidRequestError("volume_capabilities", "is missing", "the CSI specification requires it")
        requests.check_capabilities(request.volume_capabilities)
        if request.HasField("volume_content_source"):
            raise InvalidRequestError("volume_content_source", "is not served", "name the artifact as reference")
        requests.check_map(request.parameters, "parameters")
        wanted = volume_attributes.parse(request.parameters, claim_variables(request.parameters))
        if requests.are_read_only(request.volume_capabilities):  # said now, and not by each pod
            wanted = wanted.read_only()
        secret = requests.parse_secrets(request.secrets)
        pinned = None
        if not wanted.starts_empty:
            credential = credentials.from_secret(secret, wanted.reference.repository)
            pinned = wanted.reference.pinned(await self._resolved(wanted.reference, credential))
        target = wanted.write_back.reference if wanted.write_back else None
        volume_context = _volume_context(request.parameters, pinned, target)
        volume = csi_pb2.Volume(
            volume_id=_volume_id(name, request.parameters), volume_context=volume_context, capacity_bytes=0
        )
        return csi_pb2.CreateVolumeResponse(volume=volume)

    async def DeleteVolume(
        self,
        request: csi_pb2.DeleteVolumeRequest,
        context: Any,
    ) -> csi_pb2.DeleteVolumeResponse:
        """Nothing was made, so there is nothing to delete; the registry's artifact is not ours."""
        requests.parse_volume_id(request.volume_id)
        return csi_pb2.DeleteVolumeResponse()

    async def ValidateVolumeCapabilities(
        self,
        request: csi_pb2.ValidateVolumeCapabilitiesRequest,
        context: Any,
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Confirm what a volume of ours can."""
        volume_id = requests.parse_volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise InvalidRequestError("volume_capabilities", "is missing", "the CSI specification requires it")
        if not _ID.fullmatch(volume_id):
            raise VolumeNotFoundError(f"volume {printable(volume_id, 130)}", "was not created by this driver")
        try:
            requests.check_capabilities(request.volume_capabilities)
        except InvalidRequestError as error:
            return csi_pb2.ValidateVolumeCapabilitiesResponse(message=error.message)
        confirmed = csi_pb2.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return csi_pb2.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    async def _resolved(self, reference: Reference, credential: Credential | None) -> Digest:
        ask = partial(contextvars.copy_context().run, self._resolve, reference, credential)
        resolving = asyncio.wrap_future(self._turns.submit(reference.repository.registry, reference, ask))
        try:
            return await asyncio.wait_for(asyncio.shield(resolving), _PATIENCE_SECONDS)
        except TimeoutError:
            resolving.add_done_callback(_hear)
            raise RegistryUnavailableError(
                str(reference),
                f"the registry did not answer within {_PATIENCE_SECONDS:.0f} s",
                "it is tried again",
            ) from None


def _hear(resolving: "asyncio.Future[Digest]") -> None:
    """Take note of a late outcome, so that nothing complains of an exception nobody heard."""
    if not resolving.cancelled() and isinstance(resolving.exception(), CsiOrasError):
        return


def _parse_name(name: str) -> str:
    if len(requests.required(name, "name").encode()) > _LONGEST_NAME:
        raise InvalidRequestError("name", f"is longer than {_LONGEST_NAME} bytes")
    if _CONTROL.search(name):
        raise InvalidRequestError(f'name "{printable(name, 80)}"', "holds control characters")
    return name


def _volume_id(name: str, parameters: Mapping[str, str]) -> str:
    canonical = json.dumps([name, sorted(parameters.items())], separators=(",", ":"))
    return f"oras1-{hashlib.sha256(canonical.encode()).hexdigest()}"


def _volume_context(
    parameters: Mapping[str, str], pinned: Reference | None, target: Reference | None
) -> dict[str, str]:
    """Keep the user's parameters and the claim's names, with references expanded, and that of what is shown pinned."""
    kept = {key: value for key, value in parameters.items() if key != "oras.artifact.reference"}
    named = {"reference": pinned, "writeBackReference": target}
    return {**kept, **{key: str(reference) for key, reference in named.items() if reference}}
