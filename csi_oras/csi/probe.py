"""A client of the driver's own identity service: who answers at a socket, and whether it is well."""

from dataclasses import dataclass

import grpc

from csi_oras.csi.pb import csi_pb2, csi_pb2_grpc
from csi_oras.errors import UnhealthyError


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverIdentity:
    """Who a driver says it is."""

    name: str
    version: str


def probe(path: str, seconds: float) -> DriverIdentity:
    """Ask the driver behind the socket at `path` whether it is well, and who it is.

    Raises:
        UnhealthyError: it does not answer in time, or says that it is not well.
    """
    with grpc.insecure_channel(f"unix:{path}") as channel:
        identity = csi_pb2_grpc.IdentityStub(channel)
        try:
            identity.Probe(csi_pb2.ProbeRequest(), timeout=seconds)
            found = identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=seconds)
        except grpc.RpcError as error:
            raise UnhealthyError(f"socket {path}", _cause(error, seconds), "look at the driver's log") from None
    return DriverIdentity(name=found.name, version=found.vendor_version)


def _cause(error: grpc.RpcError, seconds: float) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"nobody answers within {seconds:.0f} s"
    return f"the driver is not well ({error.details()})" if error.details() else "the driver does not answer"
