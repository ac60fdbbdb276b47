"""Trouble with the registry of a workflow: at which moment of a step it strikes, and what it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.support.fault_proxy import Fault, Moment, Point
from tests.support.faulty_registry import FaultyRegistry
from tests.support.writers import Writer

_UPLOAD, _BLOB, _BY_DIGEST, _TAG = "/blobs/uploads/", "/blobs/sha256:", "/manifests/sha256:", "/manifests/run$"
_SHORT_SECONDS, _LONG_SECONDS = 3.0, 60.0
"""The driver answers two seconds before the kubelet's patience ends."""
_CRAWL = 2000
"""Bytes a second, at which a step's largest file alone takes longer than that."""


class Phase(Enum):
    """What the driver is asked for when trouble strikes; a pull is one of what the step begins with."""

    PUBLISH = auto()
    PULL = auto()
    PUSH = auto()


@dataclass(frozen=True)
class Occasion:
    """A moment of a step, of one with a file that goes in chunks if that `is_chunked`."""

    phase: Phase
    point: Point
    is_chunked: bool = False


OCCASIONS = {
    "it is asked whether a push is allowed": Occasion(Phase.PUBLISH, Point(method="POST", path=_UPLOAD)),
    "it is asked what the tag means": Occasion(Phase.PUBLISH, Point(method="HEAD", path=_TAG, moment=Moment.AFTER)),
    "the base is pulled": Occasion(Phase.PULL, Point(method="GET", path=_BLOB, moment=Moment.DURING)),
    "the push begins": Occasion(Phase.PUSH, Point(method="HEAD", path=_TAG)),
    "a blob is looked for": Occasion(Phase.PUSH, Point(method="HEAD", path=_BLOB, number=2)),
    "an upload is opened": Occasion(Phase.PUSH, Point(method="POST", path=_UPLOAD, moment=Moment.AFTER)),
    "a blob is on its way": Occasion(Phase.PUSH, Point(method="PUT", path=_UPLOAD, moment=Moment.DURING)),
    "a blob is there": Occasion(Phase.PUSH, Point(method="PUT", path=_UPLOAD, moment=Moment.AFTER)),
    "between two blobs": Occasion(Phase.PUSH, Point(method="POST", path=_UPLOAD, number=2)),
    "before the manifest": Occasion(Phase.PUSH, Point(method="PUT", path=_BY_DIGEST)),
    "between manifest and tag": Occasion(Phase.PUSH, Point(method="PUT", path=_TAG)),
    "the tag is moved": Occasion(Phase.PUSH, Point(method="PUT", path=_TAG, moment=Moment.AFTER)),
    "the first chunk is on its way": Occasion(
        Phase.PUSH, Point(method="PATCH", path=_UPLOAD, moment=Moment.DURING), is_chunked=True
    ),
    "the first chunk is there": Occasion(
        Phase.PUSH, Point(method="PATCH", path=_UPLOAD, moment=Moment.AFTER), is_chunked=True
    ),
    "before the second chunk": Occasion(Phase.PUSH, Point(method="PATCH", path=_UPLOAD, number=2), is_chunked=True),
}


@dataclass(frozen=True)
class Trouble:
    """What strikes, how it is over, and when it is, which is after the pod has gone; until then a kubelet waits."""

    strike: Callable[[FaultyRegistry, Point], Fault]
    end: Callable[[FaultyRegistry], None]
    is_enough: Callable[[Writer], bool]
    kubelet_seconds: float
    occasions: Mapping[str, Occasion] = field(default_factory=lambda: OCCASIONS)


TROUBLES = {
    "killed and restarted": Trouble(
        lambda registry, point: registry.dies_at(point, comes_back=True),
        FaultyRegistry.release,
        lambda _: True,
        _LONG_SECONDS,
    ),
    "killed until a push has failed": Trouble(
        lambda registry, point: registry.dies_at(point, comes_back=False),
        FaultyRegistry.revive,
        lambda writer: writer.failed_attempts > 0,
        _SHORT_SECONDS,
    ),
    "held until the pod has gone": Trouble(
        FaultyRegistry.hangs_at, FaultyRegistry.release, lambda writer: writer.entry is not None, _SHORT_SECONDS
    ),
    "at a crawl until the pod has gone": Trouble(
        lambda registry, point: registry.crawls_at(point, _CRAWL),
        FaultyRegistry.release,
        lambda writer: writer.entry is not None,
        _SHORT_SECONDS,
        {"the push begins": OCCASIONS["the push begins"]},
    ),
}
