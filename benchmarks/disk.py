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
from benchmarks.figures import Figure, Goal, Kind, Row
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
    scale = bench.scale
    amount = f"{scale.version_files} files, {scale.version_bytes >> 20} MiB"
    row = Row(name=name, work=f"disk of {len(artifacts)} versions, 10 % of the files new in each: {what}, {amount}")
    ours = _our_disk(bench, artifacts)
    row.figures = [_figure("csi-oras", Kind.OURS, [usage[_WHOLE] for usage in ours])]
    row.figures += [_figure(f"csi-oras, {part}", Kind.OURS, [usage[part] for usage in ours]) for part in _PARTS]
    if peer:
        row.figures.append(_figure(peer.who, Kind.PEER, _peer_disk(bench, artifacts, peer), peer.note))
    row.goals = [
        _goal("without what was pulled packed", [usage[_WHOLE] - usage["blobs"] for usage in ours]),
        _goal("with all of it", [usage[_WHOLE] for usage in ours]),
    ]
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
            process(*peer.unpack(artifact, f"v{number}"), least=artifact.unpacked)(place)
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
    """Make a figure of the last size; the first and the growth to the second stand beside it."""
    grown = f"{sizes[-1] / sizes[0]:.2f} times the first version's {sizes[0]:.1f} MiB"
    note = ", ".join(filter(None, (grown, f"{_growth(sizes):.2f} times with the second", note)))
    return Figure(who=who, kind=kind, unit="MiB", samples=(sizes[-1],), note=note)


def _growth(sizes: list[float]) -> float:
    return sizes[1] / sizes[0]


def _goal(what: str, sizes: list[float]) -> Goal:
    growth = _growth(sizes)
    text = f"two versions take at most {_MOST_GROWTH} times what one takes, {what}"
    return Goal(text=text, ours=f"{growth:.3f} times", reached=growth <= _MOST_GROWTH)
