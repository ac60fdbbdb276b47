"""The identity service: who we are, what we can, and whether we are well."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.wrappers_pb2 import BoolValue

import csi_oras
from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.errors import UnhealthyError, UnobtainableError


class Identity(csi_pb2_grpc.IdentityServicer):
    """Every instance of one release answers alike, with a controller in its process or without."""

    def __init__(self, driver_name: str, check: Callable[[], None]) -> None:
        self._driver_name = driver_name
        self._check = check
        self._pool = ThreadPoolExecutor(1, "probe")  # its own, so that no volume can keep a probe waiting

    async def GetPluginInfo(self, request: Any, context: Any) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=self._driver_name, vendor_version=csi_oras.__version__)

    async def GetPluginCapabilities(
        self,
        request: Any,
        context: Any,
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """There is a controller; volumes are the same on every node, so there is no topology."""
        service = csi_pb2.PluginCapability.Service(type=csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE)
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[csi_pb2.PluginCapability(service=service)])

    async def Probe(self, request: Any, context: Any) -> csi_pb2.ProbeResponse:
        """Look at the store: one statement on the database and one status of its file system.

        Raises:
            UnhealthyError: the store cannot be used.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._check)
        except UnobtainableError as error:
            raise UnhealthyError(error.subject, error.cause, error.remedy) from error
        return csi_pb2.ProbeResponse(ready=BoolValue(value=True))
