"""Events: what `kubectl describe` shows of a pod or a node, best effort and at no cost to what is told of.

`emit` never waits and never fails: a bounded queue, and one thread that speaks to the API server through a `Post`.
What does not fit, is not allowed or cannot be sent is counted and dropped. The same is not said twice of a volume for
a while, for the kubelet asks again and again. A pod's name comes from outside: it is checked before it is one here.
"""

import queue
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Self

from csi_oras.errors import fitting
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import EventOutcome, Metrics

MOST_WAITING = 256
"""Events that wait to be sent; what comes on top is dropped."""
_MOST_REMEMBERED = 4096
"""Events that are not said twice."""
_RETRIES = (1.0, 10.0)
"""Seconds before each further attempt to reach the API server."""
_REST_SECONDS = 300.0
"""How long a namespace is left alone in which no event may be created."""
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(rf"(?=.{{1,63}}\Z){_LABEL}")
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")  # Kubernetes bounds the whole of it only
_UID = re.compile("[A-Za-z0-9]([-A-Za-z0-9]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, by names that are fit to be names: DNS-1123 subdomain and label, and a uid."""

    name: str
    namespace: str
    uid: str
    kind: ClassVar[str] = "Pod"

    @classmethod
    def find(cls, name: str, namespace: str, uid: str) -> Self | None:
        """Return the pod that a volume context names, or None where it names none that could be."""
        fits = _NAME.fullmatch(name) and _NAMESPACE.fullmatch(namespace) and _UID.fullmatch(uid)
        return cls(name=name, namespace=namespace, uid=uid) if fits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, by a name that is fit to be one; events of nodes are kept in the default namespace."""

    name: str
    namespace: str = field(default="default", init=False)
    kind: ClassVar[str] = "Node"

    @classmethod
    def find(cls, name: str) -> Self | None:
        """Return the node of this name, or None where it could be no node's."""
        return cls(name=name) if _NAME.fullmatch(name) else None

    @property
    def uid(self) -> str:
        """What the kubelet has for the uid of its node, and `kubectl describe` looks for."""
        return self.name


class Reason(StrEnum):
    """Why an event is written; a volume's failure is none, for the kubelet tells it."""

    PULLING = "Pulling"
    PULLED = "Pulled"
    SLOW = "PullSlow"
    NOT_VERIFIED = "NotVerified"
    NOT_LAZY = "NotLazy"
    CORRUPT = "Corrupt"
    PREFETCHED = "Prefetched"
    PREFETCH_FAILED = "PrefetchFailed"
    PUSHED = "Pushed"
    TAG_MOVED = "TagMoved"
    PUSH_FAILED = "PushFailed"

    @property
    def is_warning(self) -> bool:
        """Whether somebody should do something."""
        return self in _WARNINGS


_WARNINGS = frozenset({
    Reason.NOT_VERIFIED, Reason.NOT_LAZY, Reason.CORRUPT, Reason.PREFETCH_FAILED, Reason.TAG_MOVED, Reason.PUSH_FAILED,
})  # fmt: skip
_SILENT_SECONDS = {
    Reason.PULLING: 3600.0, Reason.PULLED: 0.0, Reason.SLOW: 300.0, Reason.NOT_VERIFIED: 3600.0,
    Reason.NOT_LAZY: 3600.0,
    Reason.CORRUPT: 3600.0, Reason.PREFETCHED: 0.0, Reason.PREFETCH_FAILED: 3600.0,
    Reason.PUSHED: 0.0, Reason.TAG_MOVED: 0.0, Reason.PUSH_FAILED: 0.0,
}  # fmt: skip
"""How long the same is not said again; the API server keeps an event for an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, as it was at `time` (seconds since the epoch)."""

    involved: Pod | Node
    reason: Reason
    message: str
    time: float


Post = Callable[[Event], tuple[EventOutcome, str]]
"""Writes an event, and says what became of it and why; waits seconds at most, and raises nothing."""


class Events:
    """Tells pods and the node; without a cluster (`connect` is None) nobody."""

    def __init__(
        self, connect: Callable[[], Post] | None, metrics: Metrics, clock: Callable[[], float] = time.time
    ) -> None:
        """Make ready; `connect` is called with the first event, for it may load a library."""
        self._connect = connect
        self._metrics = metrics
        self._clock = clock
        self._queue: queue.Queue[Event] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._silent: OrderedDict[tuple[Pod | Node, Reason, str], float] = OrderedDict()
        if connect:
            threading.Thread(target=self._run, args=(connect,), name="events", daemon=True).start()

    def emit(self, involved: Pod | Node | None, reason: Reason, about: str, message: str) -> None:
        """Tell `involved` unless it was told lately; `about` names the artifact, so that one tells it from another."""
        if self._connect is None or involved is None:
            return
        if self._was_said((involved, reason, about), _SILENT_SECONDS[reason]):
            return
        try:
            self._queue.put_nowait(
                Event(involved=involved, reason=reason, message=fitting(message), time=self._clock())
            )
        except queue.Full:
            self._metrics.observe_event(reason, EventOutcome.DROPPED)

    def _was_said(self, key: tuple[Pod | Node, Reason, str], seconds: float) -> bool:
        now = self._clock()
        with self._lock:
            if now < self._silent.get(key, 0):
                return True
            self._silent[key] = now + seconds
            self._silent.move_to_end(key)
            if len(self._silent) > _MOST_REMEMBERED:
                self._silent.popitem(last=False)
        return False

    def _run(self, connect: Callable[[], Post]) -> None:
        event = self._queue.get()
        sender = _Sender(connect(), self._clock)
        while True:
            self._metrics.observe_event(event.reason, sender.send(event))
            event = self._queue.get()


class _Sender:
    """Sends one event after another, and says in the log once what stands in the way."""

    def __init__(self, post: Post, clock: Callable[[], float]) -> None:
        self._post = post
        self._clock = clock
        self._resting: dict[str, float] = {}
        self._trouble = EventOutcome.SENT

    def send(self, event: Event) -> EventOutcome:
        if self._clock() < self._resting.get(event.involved.namespace, 0):
            return EventOutcome.FORBIDDEN
        outcome, cause = self._post(event)
        for seconds in _RETRIES:
            if outcome is EventOutcome.UNREACHABLE:
                self._tell(outcome, cause, event)
                time.sleep(seconds)
                outcome, cause = self._post(event)
        if outcome is EventOutcome.FORBIDDEN:
            self._leave_alone(event.involved.namespace)
        self._tell(outcome, cause, event)
        return outcome

    def _leave_alone(self, namespace: str) -> None:
        now = self._clock()
        self._resting = {name: until for name, until in self._resting.items() if now < until}
        self._resting[namespace] = now + _REST_SECONDS

    def _tell(self, outcome: EventOutcome, cause: str, event: Event) -> None:
        if outcome not in (self._trouble, EventOutcome.SENT):
            logger.warning(
                "events of pods are not written, the driver goes on without",
                outcome=str(outcome),
                cause=cause,
                namespace=event.involved.namespace,
            )
        self._trouble = outcome
