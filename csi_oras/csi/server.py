"""The server: grpc.aio on a unix socket that takes the place of an older one without a moment in between.

gRPC unlinks the path that it bound when it stops, whoever owns that path by then; so it binds a private name,
which is renamed to the endpoint, and only we remove the endpoint, and only while it is still ours.
"""

import os

import grpc

from csi_oras.csi.boundary import Boundary
from csi_oras.csi.controller import Controller
from csi_oras.csi.identity import Identity
from csi_oras.csi.node import Node
from csi_oras.csi.pb import csi_pb2_grpc
from csi_oras.endpoint import private_path, socket_path
from csi_oras.errors import InvalidConfigError
from csi_oras.telemetry.metrics import Metrics

_GRACE_SECONDS = 5.0


class Server:
    """Identity, and controller and node where they are given."""

    def __init__(
        self,
        endpoint: str,
        metrics: Metrics,
        identity: Identity,
        controller: Controller | None,
        node: Node | None,
    ) -> None:
        self._path = socket_path(endpoint)
        self._server = grpc.aio.server(
            interceptors=[Boundary(metrics)], options=[("grpc.max_concurrent_streams", 1000)]
        )
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, self._server)
        if controller:
            csi_pb2_grpc.add_ControllerServicer_to_server(controller, self._server)
        if node:
            csi_pb2_grpc.add_NodeServicer_to_server(node, self._server)
        self._inode = 0

    async def start(self) -> None:
        """Begin to answer at the endpoint.

        Raises:
            InvalidConfigError: it cannot be listened on.
        """
        private = private_path(self._path)
        previous = os.umask(0o077)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            private.unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{private}")
            await self._server.start()
            self._inode = private.stat().st_ino
            private.rename(self._path)
        except (OSError, RuntimeError) as error:
            raise InvalidConfigError(
                f"endpoint {self._path}", f"cannot be listened on ({error})", "check --endpoint"
            ) from error
        finally:
            os.umask(previous)

    async def stop(self) -> None:
        """Let calls end for a while, and go; the endpoint is removed if it is still ours."""
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass
        await self._server.stop(_GRACE_SECONDS)
