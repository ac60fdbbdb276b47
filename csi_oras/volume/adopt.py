"""Adoption: what mountinfo says of a mount whose record was lost.

A mount is ours if it shows something below the trees of this very store, or below what was one of them until it was
quarantined: the same file system, and the same path within it. Both are known though the state directory was wiped, for
the kernel still names what was deleted.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csi_oras import kernel
from csi_oras.mount import mountinfo

_DELETED = "//deleted"
"""What the kernel puts behind the path of a root that was deleted; no path has two slashes."""
_TREE = re.compile(r"/(trees|quarantine)/((?:tree-sha256-)?([0-9a-f]{64})(?:-[0-9a-f]{16})?)(?:/.+)?", re.DOTALL)

_UPPER = re.compile(r"\bupperdir=[^=]*/volumes/([0-9a-f]{32})/upper(?:,|$)")
_LOWER = re.compile(r"\blowerdir\+?=[^=]*/trees/([0-9a-f]{64})(?:,|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OurMount:
    """A mount of a tree of this store: the digest of its plan, and whether the tree was deleted beneath it.

    What was quarantined has a name there.
    """

    plan: str
    is_deleted: bool
    quarantined: str = ""


def mounts_at(target: str, trees: Path) -> list[OurMount | None]:
    """Return what is stacked on `target`, the lowest first; None stands for what is none of ours."""
    place = _place(target)
    return [ours for where, ours in _mounts(trees) if where == place]


def all_mounts(trees: Path) -> dict[str, OurMount]:
    """Return each mount of ours that is not hidden by another, by its target."""
    topmost = dict(_mounts(trees))
    return {target: ours for target, ours in topmost.items() if ours}


def shown_plans(trees: Path) -> frozenset[str]:
    """Return the digests of the plans that any mount shows, wherever it is and whoever knows of it."""
    below = {mount.plan for mount in writable_mounts() if mount.plan}
    return frozenset(ours.plan for _, ours in _mounts(trees) if ours) | below


def shown_quarantined(trees: Path) -> dict[str, set[str]]:
    """Return the targets at which each tree of the quarantine is mounted, hidden by another mount or not."""
    found: dict[str, set[str]] = {}
    for target, ours in _mounts(trees):
        if ours and ours.quarantined:
            found.setdefault(ours.quarantined, set()).add(target)
    below = [(mount.plan.removeprefix("sha256:"), mount.target) for mount in writable_mounts() if mount.plan]
    for name in os.listdir(trees.parent / "quarantine") if below else ():  # noqa: PTH208 (names are wanted)
        tree = _TREE.fullmatch(f"/quarantine/{name}")  # the kernel names an overlay's tree by where it was
        targets = {target for plan, target in below if tree and plan == tree[3]}
        if targets:
            found.setdefault(name, set()).update(targets)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableMount:
    """An overlay of ours: the key of the volume that is written, and the digest of the plan below it, if any.

    The key is a hash of the volume and its target, and so says by itself whose mount it is.
    """

    target: str
    key: str
    plan: str


def writable_mounts() -> list[WritableMount]:
    """Return each mount of a writable volume, hidden by another or not."""
    found = []
    for mount in mountinfo.read():
        upper = _UPPER.search(mount.details) if mount.filesystem == "overlay" else None
        if upper:
            lower = _LOWER.search(mount.details)
            plan = f"sha256:{lower[1]}" if lower else ""
            found.append(WritableMount(target=mount.target, key=upper[1], plan=plan))
    return found


def writable_at(target: str) -> str:
    """Return the key of the writable volume that is mounted on `target`, or nothing."""
    place = _place(target)
    return next((mount.key for mount in writable_mounts() if mount.target == place), "")


def _place(target: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target.rstrip("/")))  # noqa: PTH118, PTH119, PTH120


def _mounts(trees: Path) -> Iterator[tuple[str, OurMount | None]]:
    mounts = mountinfo.read()
    device, root = _origin(trees.parent, mounts)
    for mount in mounts:
        is_below = mount.device == device and mount.root.startswith(root)
        yield mount.target, _our_mount(mount.root.removeprefix(root)) if is_below else None


def _our_mount(below: str) -> OurMount | None:
    """Read what is left of a mount's root behind the path of our state directory."""
    tree = _TREE.fullmatch(below.removesuffix(_DELETED))
    if tree is None:
        return None
    name = tree[2] if tree[1] == "quarantine" else ""
    return OurMount(plan=f"sha256:{tree[3]}", is_deleted=below.endswith(_DELETED), quarantined=name)


def _origin(path: Path, mounts: list[mountinfo.Mount]) -> tuple[str, str]:
    """Return the device of the file system that a path is on, and the path within it; also of one that was wiped."""
    real = Path(os.path.realpath(path))
    there = next(parent for parent in (real, *real.parents) if parent.exists())
    mount_id = kernel.mount_point(kernel.AT_FDCWD, str(there)).mount_id
    for mount in mounts:
        if mount.mount_id == mount_id:
            return mount.device, str(Path(mount.root, real.relative_to(mount.target))).rstrip("/")
    return "", ""  # we see only a part of the mounts; no device has this name


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
