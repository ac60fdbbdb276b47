"""Collection: a large store gives back nearly all of it, while one of its artifacts is published again and again.

Once as the driver does it by itself, when it starts and finds itself far above its watermark, and once as the command
does beside the driver, each on the same store.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import say
from benchmarks.figures import Figure, Goal, Kind, Row, amount
from benchmarks.grown import Grown, says
from benchmarks.growth import memory_goal
from benchmarks.memory import Watch, mebibytes
from benchmarks.workbench import Workbench

_LEAST_ALONE_SECONDS, _MOST_ALONE_SECONDS = 1.0, 5.0
_MOST_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 1800.0
_LOOK_SECONDS = 0.05


@dataclass(kw_only=True)
class _Found:
    """What was measured of one collection: seconds, blobs that went, MiB, and milliseconds of publishes."""

    who: str
    seconds: float = 0
    blobs: int = 0
    most_memory: float = 0
    meanwhile: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def figures(self) -> list[Figure]:
        """Everything measured."""
        return [
            self._figure("", "s", [self.seconds]),
            self._figure(", rate", "blobs/s", [self.blobs / self.seconds]),
            self._figure(", resident at most", "MiB", [self.most_memory]),
            self._figure(", publish meanwhile", "ms", self.meanwhile),
            self._figure(", publish afterwards", "ms", self.alone),
        ]

    def _figure(self, what: str, unit: str, samples: list[float]) -> Figure:
        return Figure(who=f"csi-oras, {self.who}{what}", kind=Kind.OURS, unit=unit, samples=tuple(samples))

    def goals(self) -> list[Goal]:
        """Whether pods noticed, and what it took."""
        longest, otherwise = (amount(max(samples), "ms") for samples in (self.meanwhile, self.alone))
        rate = f"{self.blobs:,} blobs in {amount(self.seconds, 's')}, {self.blobs / self.seconds:,.0f} a second"
        return [
            Goal(
                text=f"no publish takes {_MOST_WAIT_SECONDS:.0f} s meanwhile",
                ours=f"{self.who}: {rate}; the longest publish {longest} (afterwards {otherwise})",
                reached=max(self.meanwhile) < _MOST_WAIT_SECONDS * 1000,
            ),
            memory_goal(self.who, self.most_memory),
        ]


def collection(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Collect all but one of very many artifacts, in the driver and by `store gc --all`, and publish meanwhile."""
    grown = bench.shared(Grown)
    grown.grow(bench.scale.grown_artifacts[-1])
    grown.hold(1)
    work = f"collection of {grown.blobs:,} blobs of {grown.artifacts:,} artifacts"
    copy = grown.driver.directory / "copy"
    grown.driver.stop()
    subprocess.run(["cp", "-a", str(grown.driver.state), str(copy)], check=True)  # with its hard links
    found = [_by_driver(grown)]
    _replace(grown, copy)
    found.append(_by_command(grown))
    grown.hold(0)
    grown.forget()
    row = Row(name="collection", work=work, compares=False)
    row.figures = [figure for each in found for figure in each.figures()]
    row.goals = [goal for each in found for goal in each.goals()]
    return row


def _by_driver(grown: Grown) -> _Found:
    """Start the driver with so little room that all goes which nobody uses, and wait until it has."""
    driver, log = grown.driver, grown.driver.directory / "driver.log"
    found, before, position = _Found(who="by the driver"), _blobs(grown), log.stat().st_size
    grown.set_policy("store: {maxBytes: 100Ki, minAge: 0s}")
    driver.start()
    with _publishing(grown, found):
        _wait_until_collected(grown, log, position)
    if driver.process:
        found.most_memory = mebibytes(driver.process.pid, "VmHWM")
    return _counted(found, grown, before)


def _by_command(grown: Grown) -> _Found:
    """Run the command beside the driver."""
    found, before = _Found(who="store gc --all"), _blobs(grown)
    command = [
        sys.executable, "-m", "csi_oras", "store", "gc", "--all", "--json", "--state-dir", str(grown.driver.state),
        "--config", str(grown.policy),
    ]  # fmt: skip
    output = grown.driver.directory / "gc.json"
    with _publishing(grown, found), output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            with Watch(process.pid, "VmHWM") as watch:
                _, errors = process.communicate(timeout=_PATIENCE_SECONDS)
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"store gc failed: {errors.decode(errors='replace')[-1000:]}")
    found.most_memory = max(watch.samples)
    return _counted(found, grown, before)


@contextmanager
def _publishing(grown: Grown, found: _Found) -> Iterator[None]:
    """Publish and unpublish until a block has ended and as long again, and count how long each publish takes."""
    over, calls = threading.Event(), list[tuple[float, float]]()
    with ThreadPoolExecutor(1) as caller:
        ended = caller.submit(_publish_until, over, grown, calls)
        started = time.monotonic()
        try:
            yield
            found.seconds = time.monotonic() - started
            over.wait(min(max(found.seconds, _LEAST_ALONE_SECONDS), _MOST_ALONE_SECONDS))
        finally:
            over.set()
        ended.result()
    for began, seconds in calls:
        (found.meanwhile if began < started + found.seconds else found.alone).append(seconds * 1000)


def _publish_until(over: threading.Event, grown: Grown, calls: list[tuple[float, float]]) -> None:
    while not over.is_set():
        began = time.monotonic()
        grown.publish(0, "next")
        calls.append((began, time.monotonic() - began))
        grown.unpublish("next")


def _wait_until_collected(grown: Grown, log: Path, position: int) -> None:
    """Wait for the last of the driver's rounds, in which it looks again how large the store is."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not says(log, "collected", position) or not _is_over(grown):
        if time.monotonic() > deadline:
            raise RuntimeError("the driver collects nothing")
        time.sleep(_LOOK_SECONDS)


def _counted(found: _Found, grown: Grown, before: int) -> _Found:
    """Count what went, which is all but what the one artifact has."""
    found.blobs = before - _blobs(grown)
    if not _is_over(grown):
        raise RuntimeError(f"only {found.blobs} of {before} blobs were collected")
    say(f"  {', '.join(goal.ours for goal in found.goals())}")
    return found


def _is_over(grown: Grown) -> bool:
    return _blobs(grown) <= grown.blobs // grown.artifacts


def _blobs(grown: Grown) -> int:
    return sum(1 for _ in os.scandir(grown.driver.state / "blobs/sha256"))


def _replace(grown: Grown, copy: Path) -> None:
    """Put the store back as it was."""
    grown.hold(0)
    grown.driver.stop()
    shutil.rmtree(grown.driver.state)
    copy.rename(grown.driver.state)
    grown.set_policy()
    grown.driver.start()
    grown.hold(1)
