"""Adoption: what mountinfo says of a mount whose record was lost."""

import os
from dataclasses import dataclass
from pathlib import Path

from csi_oras.mount import mountinfo


@dataclass(frozen=True, slots=True, kw_only=True)
class OurMount:
    """A mount of a tree of this store: the digest of its plan, and what it shows."""

    plan: str
    path: Path


def find_our_mount(target: str, trees: Path) -> OurMount | None:
    """Return what of `trees` is mounted on top at `target`, or None where that is nothing of ours."""
    place = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target.rstrip("/")))  # noqa: PTH118, PTH119, PTH120
    mounts = mountinfo.read()
    on_top = next((mount for mount in reversed(mounts) if mount.target == place), None)
    if on_top is None:
        return None
    shown = Path(on_top.root)
    for plan_directory in (shown, shown.parent):
        tree = trees / plan_directory.name
        if plan_directory.parent.name == trees.name and tree.is_dir() and _is_same(Path(place), trees, shown):
            return OurMount(plan=f"sha256:{plan_directory.name}", path=Path(place))
    return None


def _is_same(place: Path, trees: Path, shown: Path) -> bool:
    """Compare by inode: the root that mountinfo shows is relative to the file system, not to us."""
    depth = 1 if shown.parent.name == trees.name else 2
    ours = trees.joinpath(*shown.parts[-depth:])
    try:
        return os.path.samestat(place.stat(), ours.stat())
    except OSError:
        return False


def tree_size(path: Path) -> tuple[int, int]:
    """Return the bytes and the number of the files below `path`, or of the file that it is."""
    if path.is_file():
        return path.stat().st_size, 1
    sizes = [
        os.stat(os.path.join(directory, name)).st_size  # noqa: PTH116, PTH118 (os.walk gives text)
        for directory, _, names in os.walk(path)
        for name in names
    ]
    return sum(sizes), len(sizes)
