"""The boundary: what every call passes, whatever it does: log fields, a clock, and errors as status codes.

An exception that leaves a handler would be UNKNOWN, which the kubelet takes as final; so none does.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog

from csi_oras.csi.status import code_of, go_name
from csi_oras.errors import CsiOrasError
from csi_oras.oci.reference import without_user
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics

_POD = "csi.storage.k8s.io/pod."

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps each handler of the server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler of a call, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._wrapped(handler_call_details.method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _wrapped(self, method: str, handle: Handler) -> Handler:
        async def handler(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(method=method.rpartition("/")[2], **_fields(request))
            started, code = time.monotonic(), grpc.StatusCode.CANCELLED
            try:
                response = await handle(request, context)
            except CsiOrasError as error:
                code = code_of(error)
                _log_refusal(code, error)
                await context.abort(code, error.message)
            except Exception as error:
                code = _unexpected(error, context)
                if code is grpc.StatusCode.INTERNAL:
                    await context.abort(code, "internal error, see the driver's log")
                raise
            else:
                code = grpc.StatusCode.OK
                return response
            finally:
                seconds = time.monotonic() - started
                self._metrics.observe_operation(method, go_name(code), seconds)
                logger.debug("call ended", code=go_name(code), seconds=round(seconds, 4))

        return handler


def _fields(request: Any) -> dict[str, str]:
    """Pick what says which volume and pod a call is about; contexts and secrets as a whole are never logged."""
    volume_context = getattr(request, "volume_context", None) or getattr(request, "parameters", None) or {}
    namespace, name = volume_context.get(f"{_POD}namespace", ""), volume_context.get(f"{_POD}name", "")
    found = {
        "volume_id": getattr(request, "volume_id", ""),
        "pod": f"{namespace}/{name}" if name else "",
        "reference": without_user(volume_context.get("reference") or volume_context.get("oras.artifact.reference", "")),
    }
    return {key: value for key, value in found.items() if value}


def _log_refusal(code: grpc.StatusCode, error: CsiOrasError) -> None:
    level = "info" if code is grpc.StatusCode.ABORTED else "warning"
    getattr(logger, level)(error.message, code=go_name(code))


def _unexpected(error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    """Tell an abort that is already under way (grpc raises to unwind, for UNIMPLEMENTED say) from a bug."""
    code = context.code()
    if isinstance(error, grpc.aio.AbortError) or (isinstance(error, NotImplementedError) and code):
        return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNIMPLEMENTED
    logger.error("a bug: unexpected exception", exc_info=error)
    return grpc.StatusCode.INTERNAL
