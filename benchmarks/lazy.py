"""Lazy volumes: how soon there is a first byte, what a part or all of one costs, and the memory of who serves them."""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.contenders import Contender, interleaved, publish, say
from benchmarks.figures import Figure, Goal, Kind, Row, amount
from benchmarks.lazy_artifacts import MIB, check, name, sparse
from benchmarks.link import Conditions, Link
from benchmarks.memory import MOST_MIB, mebibytes
from benchmarks.workbench import Artifact, Workbench
from tests.support.driver import Driver

_NEAR_SECONDS, _FAR_SECONDS = 0.02, 0.2
"""Two round trips: what grows from one to the other is spent in them."""
_MOST_ROUND_TRIPS = 3
_MOST_FETCHED = 1.1
_LEAST_OF_PULL = 0.5
"""All of it, cold: each byte is hashed twice, and copied by a process more."""
_SHARE, _READERS = 10, 4
_READ_BYTES = MIB
_SETTLED_SECONDS = 2.0


def lazy_first(bench: Workbench, _peers: set[str], runs: int) -> Row:
    """Publish a large artifact and read its first byte, through links of two lengths."""
    size = bench.scale.lazy_bytes
    artifact = sparse(bench, "first", [size])
    row = Row(name="lazy-first", work=f"publish of {size >> 20} MiB to the first byte read")
    took: dict[float, list[float]] = {_NEAR_SECONDS: [], _FAR_SECONDS: []}
    requests = 0
    for _ in range(runs):
        for seconds, samples in took.items():
            with _link(bench, seconds) as link:
                with bench.fresh() as place:
                    samples.append(_lazy(bench, artifact.through(link), _first_byte, place))
                requests = link.answers
                say(f"  {seconds * 1000:.0f} ms: {samples[-1]:.3f} s, {requests} requests")
    near, far = (
        Figure(
            who=f"csi-oras lazy, round trip of {seconds * 1000:.0f} ms",
            kind=Kind.OURS,
            unit="s",
            samples=tuple(samples),
        )
        for seconds, samples in took.items()
    )
    trips = (far.median - near.median) / (_FAR_SECONDS - _NEAR_SECONDS)
    with _link(bench, _NEAR_SECONDS) as link, bench.fresh() as place:
        eager = _eager(artifact.through(link), _first_byte, place)
    row.figures = [
        near,
        far,
        Figure(
            who=f"pulled first, round trip of {_NEAR_SECONDS * 1000:.0f} ms",
            kind=Kind.LIMIT,
            unit="s",
            samples=(eager,),
        ),
    ]
    row.compares = False
    row.goals = [
        Goal(
            text=f"within {_MOST_ROUND_TRIPS} round trips, the handshake not counted",
            ours=f"{near}, {trips - 1:.2f} round trips beside the handshake, {requests} requests",
            reached=trips - 1 <= _MOST_ROUND_TRIPS + 0.2,
            peer=f"pulled first {amount(eager, 's')}",
            ratio=f"{eager / near.median:.2f}",
        )
    ]
    return row


def lazy_cold(bench: Workbench, _peers: set[str], runs: int) -> Row:
    """Read all of what is not local, against pulling it first."""
    size = bench.scale.lazy_read_bytes
    artifact = sparse(bench, "cold", [size])
    row = Row(name="lazy-cold", work=f"publish of {size >> 20} MiB, read from begin to end")
    for where, seconds in (("loopback", 0.0), (f"{_NEAR_SECONDS * 1000:.0f} ms", _NEAR_SECONDS)):
        with _link(bench, seconds) as link:
            cold = artifact.through(link) if seconds else artifact
            contenders = [
                Contender(who=f"csi-oras lazy, {where}", kind=Kind.OURS, run=partial(_lazy, bench, cold, _whole)),
                Contender(who=f"pulled first, {where}", kind=Kind.PEER, run=partial(_eager, cold, _whole)),
            ]
            ours, theirs = interleaved(bench, contenders, runs)
            row.figures += [ours, theirs]
            row.goals += Row(name="", work="", figures=[ours, theirs]).against_best_peer(
                _LEAST_OF_PULL, f"at least half as fast as pulled first, {where}"
            )
    return row


def lazy_some(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Read a tenth of the files in any order, several at a time, as training does."""
    scale = bench.scale
    small, large = bench.many(), sparse(bench, "some", [scale.lazy_file_bytes] * scale.lazy_files)
    row = Row(name="lazy-some", work=f"one in {_SHARE} of the files read, several at a time", compares=False)
    for artifact, each in ((small, scale.file_bytes), (large, scale.lazy_file_bytes)):
        what = f"{artifact.files} files of {each >> 10} KiB"
        fetched, read, seconds = _some(bench, artifact)
        with _link(bench, _NEAR_SECONDS) as link, bench.fresh() as place:
            eager = _eager(artifact.through(link), _tenth, place)
        row.figures += [
            Figure(who=f"csi-oras lazy, {what}", kind=Kind.OURS, unit="s", samples=(seconds,)),
            Figure(who=f"pulled first, {what}", kind=Kind.LIMIT, unit="s", samples=(eager,)),
        ]
        row.goals.append(
            Goal(
                text=f"fetched at most {_MOST_FETCHED} of what is read",
                ours=f"{what}: {fetched / MIB:.1f} MiB fetched, {read / MIB:.1f} MiB read, {amount(seconds, 's')}",
                reached=fetched <= _MOST_FETCHED * read,
                peer=f"pulled first {amount(eager, 's')}",
                ratio=f"{fetched / read:.2f}",
            )
        )
    return row


def lazy_memory(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Serve one lazy artifact and several, all read from, and look at what everybody has in memory."""
    row = Row(name="lazy-memory", work="memory with lazy artifacts, all read from", compares=False)
    size = 2 * bench.scale.lazy_file_bytes
    with bench.fresh() as place, serving(bench, place) as driver:
        for number in range(bench.scale.lazy_trees):
            artifact, target = sparse(bench, f"memory-{number}", [size]), driver.target(f"volume-{number}")
            driver.publish(target, volume_id=f"volume-{number}", reference=artifact.reference, mode="lazy")
            _whole(target)
            if number in (0, bench.scale.lazy_trees - 1):
                _weigh(row, driver, number + 1)
        for number in range(bench.scale.lazy_trees):
            driver.unpublish(driver.target(f"volume-{number}"), volume_id=f"volume-{number}")
    return row


def _weigh(row: Row, driver: Driver, trees: int) -> None:
    if driver.process is None:
        raise RuntimeError("the driver does not run")
    mounter, driving = driver.mounter(), driver.process.pid
    figures = [
        Figure(who=f"csi-oras {who}, {field}, {trees} lazy", kind=Kind.OURS, unit="MiB", samples=samples)
        for field in ("Pss", "Private_Dirty")
        for who, samples in (
            ("FUSE process", tuple(_rollup(pid, field) for pid in _children(mounter))),
            ("mounter", (_rollup(mounter, field),)),
            ("driver", (_rollup(driving, field),)),
        )
    ]
    row.figures += figures
    most = mebibytes(driving, "VmHWM")
    each, holding, *_ = figures
    ours = f"{trees} lazy: driver {most:.0f} MiB, mounter {holding.median:.0f}, a FUSE process {each.median:.0f} (PSS)"
    row.goals.append(Goal(text=f"the driver under {MOST_MIB} MiB", ours=ours, reached=most < MOST_MIB))


def _children(pid: int) -> list[int]:
    """Return the FUSE processes of a mounter."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rollup(pid: int, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"process {pid} has no {field}")
    return int(found[1]) / 1024


def _link(bench: Workbench, seconds: float) -> Link:
    return Link(bench.registry.address, Conditions(rate=bench.scale.link_rate, round_trip=seconds))


@contextmanager
def serving(bench: Workbench, place: Path) -> Iterator[Driver]:
    """Lend a driver with an empty store below `place`, whose mounter runs."""
    first = sparse(bench, "mounter", [MIB])
    with Driver(place) as driver:
        try:
            target = driver.target("mounter")
            driver.publish(target, volume_id="mounter", reference=first.reference, mode="lazy")
            driver.unpublish(target, volume_id="mounter")
            yield driver
        finally:
            driver.end_mounter()


def _lazy(bench: Workbench, artifact: Artifact, read: Callable[[Path], object], place: Path) -> float:
    """Return the seconds from the begin of a publish to the end of a read."""
    with serving(bench, place) as driver:
        target = driver.target()
        started = time.monotonic()
        driver.publish(target, reference=artifact.reference, mode="lazy")
        read(target)
        took = time.monotonic() - started
        driver.unpublish(target)
    return took


def _eager(artifact: Artifact, read: Callable[[Path], object], place: Path) -> float:
    with Driver(place) as driver:
        target = driver.target()
        started = time.monotonic()
        publish(driver, target, artifact.reference)
        read(target)
        took = time.monotonic() - started
        driver.unpublish(target)
    return took


def _some(bench: Workbench, artifact: Artifact) -> tuple[int, int, float]:
    """Return the bytes that came when a tenth was read of a lazy volume, those that were read, and the seconds."""
    with _link(bench, _NEAR_SECONDS) as link, bench.fresh() as place, serving(bench, place) as driver:
        target = driver.target()
        started = time.monotonic()
        driver.publish(target, reference=artifact.through(link).reference, mode="lazy")
        read = _tenth(target)
        took = time.monotonic() - started
        _settle(link)
        driver.unpublish(target)
        return link.carried, read, took


def _settle(link: Link) -> None:
    """Wait until nothing more comes."""
    while link.wait_until_carried(link.carried + 1, _SETTLED_SECONDS):
        pass


def _first_byte(target: Path) -> None:
    with (target / name(0)).open("rb", buffering=0) as file:
        file.read(1)


def _whole(target: Path) -> None:
    buffer = memoryview(bytearray(_READ_BYTES))
    with (target / name(0)).open("rb", buffering=0) as file:
        place = 0
        while count := file.readinto(buffer):
            check(buffer, place)
            place += count


def _tenth(target: Path) -> int:
    """Read a tenth of the files, and return how many bytes that was."""
    paths = sorted(Path(place, file) for place, _, files in os.walk(target) for file in files)
    chosen = random.Random(1).sample(paths, len(paths) // _SHARE)  # noqa: S311 (the same each time)
    with ThreadPoolExecutor(_READERS) as readers:
        return sum(readers.map(lambda path: len(path.read_bytes()), chosen))
