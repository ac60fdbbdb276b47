"""Disk that the versions of an artifact take when each of them changes a tenth of the files.

We keep what was pulled as it came (blobs) beside what came out of it (objects, shared by content) and the names
(trees). Peers keep no version's files together with another's.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import process, publish
from benchmarks.content import Sample, samples, versions
from benchmarks.figures import Chart, Figure, Goal, Kind, Point, Row
from benchmarks.unpack import oras_pull, skopeo_and_umoci
from benchmarks.workbench import Artifact, Workbench, in_layers
from tests.support.driver import Driver

_PARTS = ("blobs", "objects", "trees")
_WHOLE = "whole"
_MOST_GROWTH = 1.12
_BLOCK_BYTES = 512
"""What st_blocks counts in, whatever the file system."""
_MEBIBYTE = 1 << 20

Usage = dict[str, float]
"""MiB by part of a store, and of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """Somebody's layout of all versions, each in its own directory: `unpack` is the command for one of them."""

    who: str
    unpack: Callable[[Artifact, str], Sequence[str]]
    note: str


def versions_files(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """Measure versions of plain files, each of them a blob."""
    scale = bench.scale
    first = samples(scale.version_plain_files, scale.version_bytes)
    artifacts = [
        bench.files_artifact(f"files-v{number}", files)
        for number, files in enumerate(versions(first, scale.versions), 1)
    ]
    return _row("versions-files", "plain files", bench, artifacts, _oras(peers))


def _oras(present: set[str]) -> _Peer | None:
    return _Peer(who="oras pull", unpack=oras_pull, note="files only") if "oras" in present else None


def _umoci(present: set[str]) -> _Peer | None:
    if not {"skopeo", "umoci"} <= present:
        return None
    return _Peer(
        who="skopeo copy + umoci raw unpack",
        unpack=lambda artifact, name: ["sh", "-c", skopeo_and_umoci(artifact, name)],
        note="layers in one layout",
    )


def versions_directory(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """Measure versions of a directory that is one archive, which is another one in each version."""
    artifacts = [
        bench.directory_artifact(f"directory-v{number}", files) for number, files in enumerate(_versions(bench), 1)
    ]
    return _row("versions-directory", "an ORAS directory in one archive", bench, artifacts, _oras(peers))


def versions_image(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """Measure versions of an image that was built anew, so that each of its layers has changes."""
    artifacts = [bench.image(f"image-v{number}", in_layers(files)) for number, files in enumerate(_versions(bench), 1)]
    return _row("versions-image", "an image with changes in every layer", bench, artifacts, _umoci(peers))


def versions_layers(bench: Workbench, peers: set[str], _runs: int) -> Row:
    """Measure versions of an image that each add a layer with what changed to the layers before."""
    layers: list[list[Sample]] = []
    before: set[Sample] = set()
    artifacts = []
    for number, files in enumerate(_versions(bench), 1):
        changed = [sample for sample in files if sample not in before]
        layers = [*layers, changed] if layers else in_layers(changed)
        before = set(files)
        artifacts.append(bench.image(f"layers-v{number}", layers))
    return _row("versions-layers", "an image with changes in a layer on top", bench, artifacts, _umoci(peers))


def _versions(bench: Workbench) -> Iterator[list[Sample]]:
    scale = bench.scale
    return versions(samples(scale.version_files, scale.version_bytes), scale.versions)


def _row(name: str, what: str, bench: Workbench, artifacts: Sequence[Artifact], peer: _Peer | None) -> Row:
    amount = f"{artifacts[0].files} files, {bench.scale.version_bytes >> 20} MiB"
    row = Row(name=name, work=f"disk of {len(artifacts)} versions, 10 % of the files new in each: {what}, {amount}")
    ours = _our_disk(bench, artifacts)
    row.figures = [_figure("csi-oras", Kind.OURS, [usage[_WHOLE] for usage in ours])]
    row.figures += [_figure(f"csi-oras, {part}", Kind.OURS, [usage[part] for usage in ours]) for part in _PARTS]
    theirs = {peer.who: _peer_disk(bench, artifacts, peer)} if peer else {}
    row.figures += [_figure(who, Kind.PEER, sizes, peer.note) for who, sizes in theirs.items() if peer]
    curves = {"csi-oras": [usage[_WHOLE] for usage in ours], **theirs}
    if artifacts[0].unpacked:
        curves["csi-oras, less what was pulled packed"] = [usage[_WHOLE] - usage["blobs"] for usage in ours]
    row.goals = [_goal(who, sizes) for who, sizes in curves.items() if who not in theirs]
    row.charts = [_chart(f"disk of versions: {what}", curves)]
    return row


def _our_disk(bench: Workbench, artifacts: Sequence[Artifact]) -> list[Usage]:
    """Return what a driver's store takes after each version, all of them being mounted."""
    usages = []
    with bench.fresh() as place, Driver(place) as driver:
        for number, artifact in enumerate(artifacts, 1):
            target = driver.target(pod=f"uid-{number}")
            publish(driver, target, artifact.reference, volume_id=f"volume-{number}")
            os.sync()  # what is not written yet may have no blocks yet
            usages.append(usage_of(driver.state))
    return usages


def _peer_disk(bench: Workbench, artifacts: Sequence[Artifact], peer: _Peer) -> list[float]:
    """Return what a peer's files take after each version."""
    sizes = []
    with bench.fresh() as place:
        for number, artifact in enumerate(artifacts, 1):
            process(*peer.unpack(artifact, f"v{number}"), least=artifact.unpacked or artifact.size)(place)
            os.sync()
            sizes.append(usage_of(place)[_WHOLE])
    return sizes


def usage_of(directory: Path) -> Usage:
    """Return what is allocated below a directory, each inode once: where it is found first."""
    seen: set[int] = set()
    usage = {part: _allocated(directory / part, seen) for part in _PARTS}
    rest = _allocated(directory, seen)
    return {**usage, _WHOLE: sum(usage.values()) + rest}


def _allocated(directory: Path, seen: set[int]) -> float:
    if not directory.is_dir():
        return 0
    blocks = 0
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        if status.st_ino not in seen:
            seen.add(status.st_ino)
            blocks += status.st_blocks
    return blocks * _BLOCK_BYTES / _MEBIBYTE


def _figure(who: str, kind: Kind, sizes: list[float], note: str = "") -> Figure:
    """Make a figure of the last size; beside it stands the first, and how much more it was after each other one."""
    growth = ", ".join(f"{size / sizes[0]:.2f}" for size in sizes)
    note = ", ".join(filter(None, (f"times the first version's {sizes[0]:.1f} MiB: {growth}", note)))
    return Figure(who=who, kind=kind, unit="MiB", samples=(sizes[-1],), note=note)


def _goal(who: str, sizes: list[float]) -> Goal:
    growth = sizes[1] / sizes[0]
    text = f"two versions take at most {_MOST_GROWTH} times what one takes"
    ours = f"{who} {growth:.3f} times, {len(sizes)} versions {sizes[-1] / sizes[0]:.2f}"
    return Goal(text=text, ours=ours, reached=growth <= _MOST_GROWTH)


def _chart(title: str, curves: dict[str, list[float]]) -> Chart:
    first = curves["csi-oras"][0]
    most = [first * (1 + number * (_MOST_GROWTH - 1)) for number in range(len(curves["csi-oras"]))]
    return Chart(title=title, x="versions", y="MiB", curves=_numbered(curves), goal=list(enumerate(most, 1)))


def _numbered(curves: dict[str, list[float]]) -> dict[str, list[Point]]:
    return {who: list(enumerate(sizes, 1)) for who, sizes in curves.items()}
