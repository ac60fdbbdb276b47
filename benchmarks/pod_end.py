"""The end of pods that have written: how long unpublish takes, whatever the registry does, and in how much memory."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import command
from benchmarks.figures import Figure, Goal, Kind, Row, amount
from benchmarks.memory import MOST_MIB, mebibytes
from benchmarks.pushes import Work, publish, reference_at, unpublish, writer
from benchmarks.workbench import Workbench
from csi_oras.demo.distribution import Distribution
from tests.support.driver import Driver

_SMALL_BYTES = 1 << 10
_PER_CALL = 5
"""The warm row has so many times as many calls, which are that much shorter."""
_MOST_SECONDS = 60.0
"""Longest that an unpublish waits for its push."""
_GRACE_SECONDS = 2.0


def pod_end(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """End pods that have written one small file, in turn with pushing such a file by hand."""
    calls = bench.scale.warm_calls // _PER_CALL
    row = Row(name="pod-end", work=f"unpublish, one file of {_SMALL_BYTES} bytes written, {calls} times")
    ours, theirs = [], []
    with bench.fresh() as place, Distribution(place / "registry") as registry, writer(place) as driver:
        for number in range(-1, calls):  # one that does not count
            content = os.urandom(_SMALL_BYTES)
            ours.append(_ended(driver, f"{registry.address}/ours:v{number + 1}", content))
            if "oras" in peers:
                theirs.append(_by_hand(place, f"{registry.address}/theirs:v{number + 1}", content))
    row.figures = [Figure(who="csi-oras unpublish", kind=Kind.OURS, unit="ms", samples=tuple(ours[1:]))]
    if theirs:
        note = "whole process"
        row.figures.append(Figure(who="oras push", kind=Kind.PEER, unit="ms", samples=tuple(theirs[1:]), note=note))
    row.goals = row.against_best_peer(1, "pushed when it answers, no slower than the best peer")
    return row


def _ended(driver: Driver, reference: str, content: bytes) -> float:
    """Return the milliseconds of an unpublish, at the end of which nothing may be left to be pushed."""
    publish(driver, reference)
    (driver.target() / "small").write_bytes(content)
    started = time.monotonic()
    driver.unpublish(driver.target())
    took = time.monotonic() - started
    if _waiting(driver):
        raise RuntimeError("unpublish has not waited for its push")
    return took * 1000


def _by_hand(place: Path, reference: str, content: bytes) -> float:
    (place / "small").write_bytes(content)
    environment = {**os.environ, "HOME": str(place), "TMPDIR": str(place)}
    started = time.monotonic()
    command(["oras", "push", "--plain-http", "--no-tty", reference, "small"], environment, place)
    return (time.monotonic() - started) * 1000


def pod_end_hang(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """End a pod while its registry takes connections and never answers."""
    deadline = bench.scale.hang_seconds
    most = min(_MOST_SECONDS, deadline) + _GRACE_SECONDS
    with bench.fresh() as place, writer(place) as driver:
        with Distribution(place / "registry") as registry:
            publish(driver, reference_at(registry))
            (driver.target() / "small").write_bytes(os.urandom(_SMALL_BYTES))
            registry.stop()
            with _silent(registry.port):
                started = time.monotonic()
                driver.unpublish(driver.target(), timeout=deadline)
                took = time.monotonic() - started
        kept = len(_waiting(driver))
    row = Row(name="pod-end-hang", work=f"unpublish, the registry never answers, {deadline:.0f} s of the caller's time")
    row.figures = [Figure(who="csi-oras unpublish", kind=Kind.OURS, unit="s", samples=(took,))]
    reached = took <= most and kept == 1
    row.goals = [Goal(text=f"within {most:.0f} s, and kept", ours=amount(took, "s"), reached=reached)]
    return row


@contextmanager
def _silent(port: int) -> Iterator[None]:
    """Have the kernel take connections to `port` that nobody serves."""
    with socket.create_server(("127.0.0.1", port)):
        yield


def _waiting(driver: Driver) -> list[str]:
    return [path.name for path in (driver.state / "outbox").iterdir() if not path.name.startswith(".")]


def push_memory(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Push all of the large file, and the many files twice, and watch the driver."""
    scale = bench.scale
    works = (
        Work(count=1, size=scale.written_bytes),
        Work(count=scale.written_files, size=scale.written_file_bytes, changed=range(0, scale.written_files, 100)),
    )
    row = Row(name="push-memory", work="resident memory in capture and push", compares=False)
    for work in works:
        most = _most(bench, work)
        row.figures.append(Figure(who=f"csi-oras, {work}", kind=Kind.OURS, unit="MiB", samples=(most,)))
        row.goals.append(
            Goal(text=f"under {MOST_MIB} MiB", ours=f"{work}: {most:.0f} MiB", reached=most < MOST_MIB),
        )
    return row


def _most(bench: Workbench, work: Work) -> float:
    """Return the most resident memory of a driver that pushes a first and a second version, in MiB."""
    with bench.fresh() as place, Distribution(place / "registry") as registry, writer(place) as driver:
        reference = reference_at(registry)
        publish(driver, reference)
        work.write(driver.target())
        unpublish(driver, registry, work.total)
        if work.changed:
            publish(driver, reference, reference=reference)
            work.change(driver.target())
            unpublish(driver, registry, work.total)
        if driver.process is None:
            raise RuntimeError("the driver does not run")
        return mebibytes(driver.process.pid, "VmHWM")
