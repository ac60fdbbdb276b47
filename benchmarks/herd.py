"""A hundred pods that want one cold artifact at the same moment; the registry itself counts what it served."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import publish
from benchmarks.figures import Figure, Goal, Kind, Row, paired_ratio
from benchmarks.workbench import Artifact, Workbench
from tests.support.driver import Driver

_BLOB = re.compile(r"/v2/[^ ]+/blobs/(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a registry's log says it sent of one artifact's blobs."""

    requests: int
    blobs: int
    most_times: float
    """Bytes sent of a blob over its size, of the blob that was sent most often."""


def herd(bench: Workbench, _peers: set[str], runs: int) -> Row:
    """Many publishes of one cold artifact at once, against one alone."""
    artifact, pods = bench.herd(), bench.scale.pods
    row = Row(name="herd", work=f"{pods} publishes of one cold artifact ({artifact.size >> 20} MiB) at once")
    alone, first, last, served = [], [], [], []
    for _ in range(runs):
        alone.append(_run(bench, artifact, 1)[0])
        position = bench.registry.log.stat().st_size
        seconds = _run(bench, artifact, pods)
        first.append(seconds[0])
        last.append(seconds[-1])
        served.append(_served(bench.registry.log, position, artifact))
    row.figures = [
        _figure(f"last of {pods}", last),
        _figure(f"first of {pods}", first),
        _figure("one alone", alone),
        _figure("blob requests", [item.requests for item in served], f"of {served[0].blobs} blobs, in ranges"),
    ]
    row.goals = [_once(served), _together(row.figures[0], row.figures[2])]
    return row


def _run(bench: Workbench, artifact: Artifact, pods: int) -> list[float]:
    """Return when each of `pods` publishes was done, in order."""
    with bench.fresh() as place, Driver(place) as driver, ThreadPoolExecutor(pods) as callers:
        targets = [driver.target(pod=f"uid-{number}") for number in range(pods)]
        started = time.monotonic()

        def call(target: Path) -> float:
            publish(driver, target, artifact.reference, volume_id=_volume_id(target))
            return time.monotonic() - started

        done = sorted(callers.map(call, targets))
        for target in targets:
            driver.unpublish(target, volume_id=_volume_id(target))
    return done


def _volume_id(target: Path) -> str:
    """Name a volume for its pod."""
    return target.parts[-5]


def _served(log: Path, position: int, artifact: Artifact) -> Served:
    with log.open("rb") as file:
        file.seek(position)
        lines = file.read().decode(errors="replace").splitlines()
    requests, sent = 0, Counter[str]()
    for digest, count in _blob_answers(lines):
        if digest in artifact.digests:
            requests += 1
            sent[digest] += count
    size = artifact.size / len(artifact.digests)
    return Served(requests=requests, blobs=len(sent), most_times=max(sent.values(), default=0) / size)


def _blob_answers(lines: Iterable[str]) -> Iterable[tuple[str, int]]:
    for line in lines:
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        found = _BLOB.search(entry.get("http.request.uri", ""))
        if found and entry.get("msg") == "response completed" and entry.get("http.request.method") == "GET":
            yield found[1], int(entry.get("http.response.written", 0))


def _once(served: list[Served]) -> Goal:
    most = max(item.most_times for item in served)
    return Goal(
        text="each blob fetched once (bytes the registry sent, over its size)",
        ours=f"{most:.3f} times",
        reached=0.999 < most < 1.001,
    )


def _together(last: Figure, alone: Figure) -> Goal:
    ratio, _, _ = paired_ratio(last, alone)
    return Goal(text="the last pod within 1.2 of one pull alone", ours=f"{ratio:.2f} times", reached=ratio <= 1.2)


def _figure(who: str, samples: list[float], note: str = "") -> Figure:
    unit = "" if note else "s"
    return Figure(who=f"csi-oras, {who}", kind=Kind.OURS, unit=unit, samples=tuple(samples), note=note)
