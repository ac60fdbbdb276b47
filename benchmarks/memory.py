"""Resident memory of the driver while it pulls 8 GiB, and while it unpacks an image."""

import re
import threading
from pathlib import Path
from typing import Self

from benchmarks.contenders import publish
from benchmarks.figures import Figure, Goal, Kind, Row
from benchmarks.workbench import Artifact, Workbench, in_layers
from tests.support.driver import Driver

_SAMPLE_SECONDS = 0.05
MOST_MIB = 120


def memory(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Pull everything there is, with all blobs at once, and watch the driver."""
    artifact = bench.large(bench.scale.blobs)
    work = f"resident memory, pull of {artifact.size >> 20} MiB in {bench.scale.blobs} blobs"
    return _watched(bench, artifact, Row(name="memory", work=work))


def unpack_memory(bench: Workbench, _peers: set[str], _runs: int) -> Row:
    """Pull and unpack an image, and watch the driver."""
    files = bench.samples()
    artifact = bench.image("image", in_layers(files))
    work = f"resident memory, unpacking an image of {len(files)} files, {artifact.unpacked / 2**20:.0f} MiB"
    return _watched(bench, artifact, Row(name="unpack-memory", work=work))


def _watched(bench: Workbench, artifact: Artifact, row: Row) -> Row:
    with bench.fresh() as place, Driver(place) as driver:
        process = driver.process
        if process is None:
            raise RuntimeError("the driver does not run")
        target = driver.target()
        idle = mebibytes(process.pid, "VmRSS")
        with Watch(process.pid) as watch:
            publish(driver, target, artifact.reference)
        most = mebibytes(process.pid, "VmHWM")
        driver.unpublish(target)
    row.figures = [
        _figure("most (VmHWM)", [most]),
        _figure("meanwhile (VmRSS)", watch.samples or [most]),
        _figure("idle before", [idle]),
    ]
    row.goals = [Goal(text=f"under {MOST_MIB} MiB", ours=f"{most:.0f} MiB", reached=most < MOST_MIB)]
    return row


class Watch:
    """Looks at a process's resident memory while a block runs, or until it ends."""

    def __init__(self, pid: int, field: str = "VmRSS") -> None:
        self.samples: list[float] = []
        self._pid = pid
        self._field = field
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            try:
                self.samples.append(mebibytes(self._pid, self._field))
            except (OSError, RuntimeError):  # a process that has ended has no memory
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()


def mebibytes(pid: int, field: str) -> float:
    """Return a field of a process's status in MiB: VmRSS is what it has in memory, VmHWM the most it ever had."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"process {pid} has no {field}")
    return int(found[1]) / 1024


def _figure(who: str, samples: list[float]) -> Figure:
    return Figure(who=f"csi-oras, {who}", kind=Kind.OURS, unit="MiB", samples=tuple(samples))
