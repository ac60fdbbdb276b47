"""Warm publish and unpublish: the artifact is local, so that only the driver itself is measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import publish
from benchmarks.figures import Figure, Goal, Kind, Row, amount
from benchmarks.hostpath import HostPath
from benchmarks.workbench import Workbench
from tests.support.driver import Driver, pod_context

STEPS = ("publish", "unpublish", "both")


class Stopwatch:
    """The calls of one driver, and how long each took, in milliseconds."""

    def __init__(self, who: str, kind: Kind, calls: tuple[Callable[[], None], Callable[[], None]]) -> None:
        self.who = who
        self.kind = kind
        self._calls = calls
        self.samples: dict[str, list[float]] = {step: [] for step in STEPS}

    def run(self, *, counted: bool) -> None:
        """Publish and unpublish once."""
        publish_call, unpublish_call = self._calls
        before = time.monotonic()
        publish_call()
        between = time.monotonic()
        unpublish_call()
        after = time.monotonic()
        if counted:
            for step, seconds in zip(STEPS, (between - before, after - between, after - before), strict=True):
                self.samples[step].append(seconds * 1000)

    def figures(self) -> list[Figure]:
        """Everything measured."""
        return [
            Figure(who=f"{self.who}, {step}", kind=self.kind, unit="ms", samples=tuple(self.samples[step]))
            for step in STEPS
        ]


def warm_publish(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """Publish and unpublish of what is local, through the socket, call by call in turn with the peer."""
    row = Row(name="warm", work=f"warm publish and unpublish, {bench.scale.warm_calls} of each")
    with ExitStack() as stack:
        place = stack.enter_context(bench.fresh())
        watches = [stack.enter_context(_ours(bench, place / "ours"))]
        if "hostpathplugin" in peers:
            watches.append(stack.enter_context(_host_path(place / "theirs")))
        for number in range(-bench.scale.warm_calls // 10, bench.scale.warm_calls):
            for watch in watches:
                watch.run(counted=number >= 0)
    row.figures = [figure for watch in watches for figure in watch.figures()]
    row.goals = _goals(row)
    return row


@contextmanager
def _ours(bench: Workbench, place: Path) -> Iterator[Stopwatch]:
    place.mkdir()
    artifact = bench.many()
    attributes: dict[str, Any] = {"reference": artifact.reference, **pod_context()}
    with Driver(place) as driver:
        target = driver.target()
        publish(driver, target, artifact.reference)
        driver.unpublish(target)
        yield Stopwatch(
            "csi-oras",
            Kind.OURS,
            (lambda: driver.publish(target, **attributes), lambda: driver.unpublish(target)),
        )


@contextmanager
def _host_path(place: Path) -> Iterator[Stopwatch]:
    with HostPath(place) as driver:
        target = place / "kubelet/pods/uid-1/volumes/kubernetes.io~csi/volume/mount"
        target.parent.mkdir(parents=True)
        yield Stopwatch(
            "host-path",
            Kind.PEER,
            (lambda: driver.publish(target), lambda: driver.unpublish(target)),
        )


def _goals(row: Row) -> list[Goal]:
    by_name = {figure.who: figure for figure in row.figures}
    goals = []
    for step in STEPS if "host-path, both" in by_name else ():
        ours, theirs = by_name[f"csi-oras, {step}"], by_name[f"host-path, {step}"]
        for what, percent in (("median", 50), ("99th", 99)):
            mine, other = ours.percentile(percent), theirs.percentile(percent)
            goals.append(
                Goal(
                    text=f"{what} at least 3 times as fast",
                    ours=f"{ours.who} {amount(mine, 'ms')}",
                    reached=other / mine >= 3,
                    peer=f"{theirs.who} {amount(other, 'ms')}",
                    ratio=f"{other / mine:.2f}",
                )
            )
    return goals
