"""Growth: warm publish and unpublish in a store of many artifacts and beside many volumes, and the memory it takes.

Two drivers run call by call in turn: one whose store grows, and one with a single artifact and no other volume. What
is shown of the grown store is another artifact each time, as pods come.
"""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contenders import say
from benchmarks.figures import Chart, Figure, Goal, Kind, Point, Row, amount
from benchmarks.grown import Grown
from benchmarks.memory import MOST_MIB, mebibytes
from benchmarks.warm import Stopwatch
from benchmarks.workbench import Workbench
from tests.support.driver import Driver

_STEPS = ("publish", "unpublish")
_PERCENTILES = {"median": 50, "99th": 99}
_MOST_RATIO = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """What was measured at a size: milliseconds by step in the grown store and in the empty one, and MiB resident."""

    artifacts: int
    volumes: int
    grown: dict[str, list[float]]
    empty: dict[str, list[float]]
    resident: float

    @property
    def beside(self) -> str:
        """Other volumes that are published."""
        return f"{self.volumes:,} volume{'s' if self.volumes > 1 else ''}"

    def __str__(self) -> str:
        return f"{self.artifacts:,} artifacts, {self.beside}"

    def figure(self, step: str, *, grown: bool) -> Figure:
        """Return the samples of a step, with what they are to the empty store's."""
        who = f"csi-oras, {step}, {self if grown else f'empty store beside {self}'}"
        ratios = ", ".join(f"{name} {self.ratio(step, name):.2f}" for name in _PERCENTILES)
        samples = (self.grown if grown else self.empty)[step]
        note = f"{ratios} of the empty store's" if grown else ""
        return Figure(who=who, kind=Kind.OURS if grown else Kind.LIMIT, unit="ms", samples=tuple(samples), note=note)

    def ratio(self, step: str, percentile: str) -> float:
        """Return how many times as long a step takes as in the empty store."""
        percent = _PERCENTILES[percentile]
        grown, empty = (
            Figure(who="", kind=Kind.OURS, unit="ms", samples=tuple(samples[step])).percentile(percent)
            for samples in (self.grown, self.empty)
        )
        return grown / empty


def growth(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Publish and unpublish what is local as artifacts and volumes become many, against an empty store."""
    points = []
    grown = bench.shared(Grown)
    with bench.fresh() as place, Grown(place) as empty:
        empty.grow(1)
        for artifacts in bench.scale.grown_artifacts:
            grown.grow(artifacts)
            for volumes in bench.scale.grown_volumes:
                grown.hold(volumes)
                points.append(_measured(grown, empty, bench.scale.grown_calls))
        idle = resident(empty.driver)
    row = Row(
        name="growth",
        work=f"warm publish and unpublish in a store that grows, {bench.scale.grown_calls} of each at each size",
        compares=False,
    )
    row.figures = [
        point.figure(step, grown=is_grown) for point in points for step in _STEPS for is_grown in (True, False)
    ]
    row.figures += [memory_figure(str(point), point.resident) for point in points]
    row.figures.append(memory_figure("empty store", idle))
    row.goals = _goals(points[-1])
    row.charts = _charts(points)
    return row


def _measured(grown: Grown, empty: Grown, calls: int) -> _Size:
    """Publish and unpublish in both stores in turn, each first in every other turn."""
    noise = random.Random(grown.artifacts)  # noqa: S311 (which artifact is wanted next)
    watches = [_watch(grown, noise), _watch(empty, noise)]
    os.sync()  # nobody's calls wait for what was pulled before
    for number in range(-calls // 10, calls):
        for watch in watches if number % 2 else reversed(watches):
            watch.run(counted=number >= 0)
    point = _Size(
        artifacts=grown.artifacts,
        volumes=grown.volumes,
        grown=watches[0].samples,
        empty=watches[1].samples,
        resident=resident(grown.driver),
    )
    ratios = (f"{step} {name} {point.ratio(step, name):.2f}" for step in _STEPS for name in _PERCENTILES)
    say(f"  {point}: {', '.join(ratios)}, {point.resident:.0f} MiB")
    return point


def _watch(store: Grown, noise: random.Random) -> Stopwatch:
    return Stopwatch(
        "",
        Kind.OURS,
        (lambda: store.publish(noise.randrange(store.artifacts), "next"), lambda: store.unpublish("next")),
    )


def resident(driver: Driver) -> float:
    """Return the MiB that a driver has in memory when it was just scraped, which counts its store."""
    if driver.process is None:
        raise RuntimeError("the driver does not run")
    driver.metrics()
    return mebibytes(driver.process.pid, "VmRSS")


def memory_figure(who: str, mebi: float) -> Figure:
    """Say what a driver has in memory."""
    return Figure(who=f"csi-oras, resident, {who}", kind=Kind.OURS, unit="MiB", samples=(mebi,))


def memory_goal(who: str, mebi: float) -> Goal:
    """Say whether that is little enough."""
    return Goal(text=f"under {MOST_MIB} MiB", ours=f"{mebi:.0f} MiB resident, {who}", reached=mebi < MOST_MIB)


def _goals(last: _Size) -> list[Goal]:
    goals = [
        Goal(
            text=f"{name} within {_MOST_RATIO} of the empty store's",
            ours=f"{step} {amount(last.figure(step, grown=True).percentile(percent), 'ms')} at {last}",
            reached=last.ratio(step, name) <= _MOST_RATIO,
            ratio=f"{last.ratio(step, name):.2f}",
        )
        for step in _STEPS
        for name, percent in _PERCENTILES.items()
    ]
    return [*goals, memory_goal(str(last), last.resident)]


def _charts(points: list[_Size]) -> list[Chart]:
    charts = [
        _chart(
            f"warm {step} beside an empty store's",
            "times",
            {
                f"{name}, {beside}": [(point.artifacts, point.ratio(step, name)) for point in some]
                for beside, some in _by_volumes(points).items()
                for name in _PERCENTILES
            },
            _MOST_RATIO,
        )
        for step in _STEPS
    ]
    resident_by = {
        beside: [(point.artifacts, point.resident) for point in some] for beside, some in _by_volumes(points).items()
    }
    return [*charts, _chart("resident memory of the driver", "MiB", resident_by, MOST_MIB)]


def _by_volumes(points: list[_Size]) -> dict[str, list[_Size]]:
    found: dict[str, list[_Size]] = {}
    for point in points:
        found.setdefault(point.beside, []).append(point)
    return found


def _chart(title: str, unit: str, curves: Mapping[str, Sequence[Point]], most: float) -> Chart:
    sizes = [x for points in curves.values() for x, _ in points]
    goal = [(min(sizes), most), (max(sizes), most)]
    return Chart(title=title, x="artifacts in the store", y=unit, curves=curves, goal=goal)
