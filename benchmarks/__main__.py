"""`python -m benchmarks`: run the rows that are wanted and print the report."""

import argparse
import datetime as dt
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, plot, report
from benchmarks.cold import many_files, one_blob
from benchmarks.collection import collection
from benchmarks.disk import versions_directory, versions_files, versions_image, versions_layers
from benchmarks.far import far_blob, far_blob_resets, far_files, far_files_resets
from benchmarks.figures import Row
from benchmarks.growth import growth
from benchmarks.herd import herd
from benchmarks.lazy import lazy_cold, lazy_first, lazy_memory, lazy_some
from benchmarks.lazy_reads import lazy_reads
from benchmarks.memory import memory, unpack_memory
from benchmarks.pod_end import pod_end, pod_end_hang, push_memory
from benchmarks.restart import restart
from benchmarks.resume import resume
from benchmarks.scale import SMALL, Scale
from benchmarks.unpack import unpack_directory, unpack_image
from benchmarks.warm import warm_publish
from benchmarks.workbench import Workbench, workbench
from benchmarks.write_back import (
    again_blob,
    again_files,
    again_many,
    again_spread,
    push_blob,
    push_files,
    push_many,
)

ROWS: dict[str, Callable[[Workbench, set[str], int], Row]] = {
    "one-blob": one_blob,
    "many-files": many_files,
    "far-blob": far_blob,
    "far-files": far_files,
    "far-blob-resets": far_blob_resets,
    "far-files-resets": far_files_resets,
    "resume": resume,
    "warm": warm_publish,
    "herd": herd,
    "memory": memory,
    "unpack-image": unpack_image,
    "unpack-directory": unpack_directory,
    "unpack-memory": unpack_memory,
    "versions-files": versions_files,
    "versions-directory": versions_directory,
    "versions-image": versions_image,
    "versions-layers": versions_layers,
    "growth": growth,
    "restart": restart,
    "collection": collection,
    "push-blob": push_blob,
    "push-files": push_files,
    "push-many": push_many,
    "again-blob": again_blob,
    "again-files": again_files,
    "again-many": again_many,
    "again-spread": again_spread,
    "pod-end": pod_end,
    "pod-end-hang": pod_end_hang,
    "push-memory": push_memory,
    "lazy-first": lazy_first,
    "lazy-reads": lazy_reads,
    "lazy-cold": lazy_cold,
    "lazy-some": lazy_some,
    "lazy-memory": lazy_memory,
}
GROUPS = {
    "store": (
        "growth", "restart", "collection", "versions-files", "versions-directory", "versions-image", "versions-layers",
    ),
    "write-back": (
        "push-blob", "push-files", "push-many", "again-blob", "again-files", "again-many", "again-spread",
        "pod-end", "pod-end-hang", "push-memory",
    ),
    "lazy": ("lazy-first", "lazy-reads", "lazy-cold", "lazy-some", "lazy-memory"),
}  # fmt: skip
"""Rows that belong together, in the order in which they share what they need."""
_OWN_NAMESPACE = "CSI_ORAS_BENCH_NAMESPACE"


def main(arguments: Sequence[str]) -> None:
    """Measure, and print."""
    options = _options(arguments)
    if os.geteuid():
        sys.exit("benchmarks: need root, for mounts")
    _enter_namespace(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleared away, as after Ctrl-C
    peers = machine.present()
    with workbench(options.directory, _scale(options)) as bench:
        circumstances = _circumstances(arguments, bench.directory, peers)
        rows = [_measured(name, bench, peers, options.runs) for name in _wanted(options.only)]
    summary = report.summary(rows, circumstances)
    print(summary, report.everybody(rows), sep="\n\n")
    if options.markdown:
        options.markdown.write_text(summary + "\n")
    if options.plot:
        plot.draw([chart for row in rows for chart in row.charts], report.caption(circumstances), options.plot)
    if options.json:
        report.write_json(options.json, rows, circumstances)


def _wanted(named: list[str] | None) -> list[str]:
    return [row for name in named or ROWS for row in GROUPS.get(name, (name,))]


def _scale(options: argparse.Namespace) -> Scale:
    scale = SMALL if options.small else Scale()
    if options.artifacts:
        steps = [number for number in scale.grown_artifacts if number < options.artifacts]
        scale = replace(scale, grown_artifacts=(*steps, options.artifacts))
    return replace(scale, blob_bytes=options.blob_mib << 20) if options.blob_mib else scale


def _measured(name: str, bench: Workbench, peers: set[str], runs: int) -> Row:
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    row = ROWS[name](bench, peers, runs)
    row.seconds = time.monotonic() - started
    return row


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    rows = "\n".join(f"  {name:20}{row.__doc__}" for name, row in ROWS.items())
    groups = "\n".join(f"  {name:20}{', '.join(members)}" for name, members in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure us and the peers that are on PATH, in turn, on the same work.",
        epilog=f"rows:\n{rows}\n\ngroups:\n{groups}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=[*ROWS, *GROUPS], metavar="ROW",
        help="a row or a group to run (again for more), all by default",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=3, help="rounds that count, of the rows that have rounds")
    parser.add_argument("--small", action="store_true", help="tiny work: shows that all of it runs, measures nothing")
    parser.add_argument("--blob-mib", type=int, metavar="MIB", help="size of a large blob, 2048 by default")
    parser.add_argument("--artifacts", type=int, metavar="COUNT", help="in a store that grows, 10000 by default")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of goals to a file, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw how things grow, as SVG, where a row tells it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file, too")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"),  # noqa: S108 (a disk, as below /var/lib; we make our own)
        help="where registry, stores and targets are made, and removed again; about 25 GB",
    )  # fmt: skip
    return parser.parse_args(arguments)


def _enter_namespace(arguments: Sequence[str]) -> None:
    """Go on in a mount namespace of our own: whatever were left mounted ends with it, and nobody else sees it."""
    if os.environ.get(_OWN_NAMESPACE):
        return
    enter = ["unshare", "--mount", "--propagation", "private"]
    if shutil.which("unshare") and subprocess.run([*enter, "true"], check=False).returncode == 0:
        command = [*enter, sys.executable, "-m", "benchmarks", *arguments]
        os.execvpe(command[0], command, {**os.environ, _OWN_NAMESPACE: "1"})  # noqa: S606 (a list of ours)


def _circumstances(arguments: Sequence[str], directory: Path, peers: set[str]) -> report.Circumstances:
    return report.Circumstances(
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["python", "-m", "benchmarks", *arguments]),
        machine=machine.describe(directory),
        versions=machine.versions(),
        missing=tuple(sorted(set(machine.PEERS) - peers)),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
