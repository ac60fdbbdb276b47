"""The cluster that the driver runs in: events and labels, with the service account of the driver's own pod.

The one module that knows the Kubernetes client. It is loaded with the first event.
"""

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx2
from lightkube import ApiError, Client, ConfigError, KubeConfig
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event as EventResource
from lightkube.resources.core_v1 import Node as NodeResource
from lightkube.types import PatchType

from csi_oras.errors import printable
from csi_oras.telemetry.bounded import BoundedTransport
from csi_oras.telemetry.events import Event, Pod
from csi_oras.telemetry.metrics import EventOutcome

_SECONDS = 10.0
"""How long the API server may take, from the connection to the last byte of its answer."""
_LONGEST_ANSWER = 1 << 20
_LONGEST_BASE = 230
"""Characters of a pod's name in an event's; with the time it must not exceed 253."""
_LONGEST_INSTANCE = 128
_UNAUTHORIZED, _FORBIDDEN, _TIMEOUT, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 401, 403, 408, 409, 429, 500
_LONGEST_CAUSE = 300


class Cluster:
    """Writes events as the kubelet does, from `component` on `node`, and labels of that node."""

    def __init__(self, account: Path, component: str, node: str, seconds: float = _SECONDS) -> None:
        self._account = account
        self._component = component
        self._node = node
        self._seconds = seconds
        self._client: Client | None = None

    def post(self, event: Event) -> tuple[EventOutcome, str]:
        """Create the event, and say what became of it and why."""
        return self._done(lambda client: client.create(self._resource(event)))

    def label(self, prefix: str, labels: Mapping[str, str]) -> tuple[EventOutcome, str]:
        """Make `labels` the labels of the node under `prefix`, and say what became of it and why.

        It reads nothing: the answer to a patch shows what else is there.
        """

        def patch(client: Client) -> None:
            node = client.patch(NodeResource, self._node, _labelled(labels), patch_type=PatchType.MERGE)
            there = (node.metadata.labels if node.metadata else None) or {}
            stale = {key: None for key in there if key.startswith(f"{prefix}/") and key not in labels}
            if stale:
                client.patch(NodeResource, self._node, _labelled(stale), patch_type=PatchType.MERGE)

        return self._done(patch)

    def _done(self, action: Callable[[Client], object]) -> tuple[EventOutcome, str]:
        try:
            action(self._connected())
        except Exception as error:  # noqa: BLE001 (beside its own, the client lets through what TLS and decoders raise)
            if refusal := _refusal_behind(error):
                return self._refusal(refusal)
            self.close()
            return EventOutcome.UNREACHABLE, _cause(error)
        return EventOutcome.SENT, ""

    def _connected(self) -> Client:
        """Return the client; a new one reads the token and the authority anew, which both may have been rotated."""
        if self._client is None:
            authority = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            # Python 3.13 wants extensions that the authorities of some clusters lack, and that Go's client asks not for
            authority.verify_flags &= ~ssl.VERIFY_X509_STRICT
            self._client = Client(
                KubeConfig.from_service_account(self._account),
                trust_env=False,  # a proxy is for registries
                transport=BoundedTransport(authority, self._seconds, _LONGEST_ANSWER),
            )
        return self._client

    def close(self) -> None:
        """Hang up; the next event connects anew."""
        client, self._client = self._client, None
        if client:
            client.close()

    def _resource(self, event: Event) -> EventResource:
        involved, at = event.involved, datetime.fromtimestamp(event.time, UTC)
        return EventResource(
            metadata=ObjectMeta(
                name=f"{involved.name[:_LONGEST_BASE].rstrip('.-')}.{int(event.time * 1e9):x}",
                namespace=involved.namespace,
            ),
            involvedObject=ObjectReference(
                apiVersion="v1",
                kind=involved.kind,
                name=involved.name,
                namespace=involved.namespace if isinstance(involved, Pod) else None,
                uid=involved.uid,
            ),
            type="Warning" if event.reason.is_warning else "Normal",
            reason=event.reason.value,
            message=event.message,
            count=1,
            firstTimestamp=at.replace(microsecond=0),
            lastTimestamp=at.replace(microsecond=0),
            source=EventSource(component=self._component, host=self._node),
            reportingComponent=self._component,
            reportingInstance=self._node[:_LONGEST_INSTANCE],
        )

    def _refusal(self, error: httpx2.HTTPStatusError) -> tuple[EventOutcome, str]:
        code = error.response.status_code
        said = error.status.message if isinstance(error, ApiError) else ""
        cause = printable(f"{code}: {said or error.response.reason_phrase}", _LONGEST_CAUSE)
        if code == _CONFLICT:  # an attempt before, whose answer was lost
            return EventOutcome.SENT, ""
        if code == _FORBIDDEN:
            # a namespace that is on its way out takes nothing new, and says so with the same code
            ending = b'"NamespaceTerminating"' in error.response.content  # as text it has any encoding it says
            return (EventOutcome.REFUSED if ending else EventOutcome.FORBIDDEN), cause
        if code in (_UNAUTHORIZED, _TIMEOUT, _TOO_MANY) or code >= _SERVER_ERROR:
            self.close()
            return EventOutcome.UNREACHABLE, cause
        return EventOutcome.REFUSED, cause


def _labelled(labels: Mapping[str, str | None]) -> dict[str, object]:
    return {"metadata": {"labels": dict(labels)}}


def _refusal_behind(error: BaseException | None) -> httpx2.HTTPStatusError | None:
    """Find the answer that the client failed over, as it does where one says no type or is not what it says."""
    while error:
        if isinstance(error, httpx2.HTTPStatusError):
            return error
        error = error.__context__
    return None


def _cause(error: Exception) -> str:
    """Name an error; its text only where it is the network's, for others may quote what was to be sent."""
    network = isinstance(error, (httpx2.NetworkError, httpx2.TimeoutException, ConfigError, OSError))
    return printable(f"{type(error).__name__}: {error}" if network else type(error).__name__, _LONGEST_CAUSE)
