"""Packed directories of the base: which of them are still whole, so that their layers can be reused as they are.

Nobody knows which of two archives a file of the tree came from where both may bring it. So what one of them has lost,
all of them have lost, and either all archives that overlap are reused or none is.
"""

from collections.abc import Iterable

from csi_oras.oci import media_types, titles
from csi_oras.oci.plan import Plan, PlanArchive
from csi_oras.pack.found import Path


def root(archive: PlanArchive) -> Path:
    """Return the directory that holds whatever an archive brings."""
    return archive.root.components if archive.root else ()


def title(archive: PlanArchive) -> str:
    """Return what the layer of an archive is titled, without any slash at its end."""
    return archive.blob.annotations.get(media_types.TITLE, "").rstrip("/")


def whole(plan: Plan, touched: Iterable[Path], given_up: frozenset[str] = frozenset()) -> tuple[PlanArchive, ...]:
    """Return the archives of a plan that can be reused: titled directories with nothing at, above or below `touched`.

    Archives with titles that are `given_up` are not reused either.
    """
    broken = {root(archive) for archive in plan.archives if _is_broken(archive, plan, given_up)}
    broken |= _overlapping(map(root, plan.archives), touched)
    while more := _overlapping((root(archive) for archive in plan.archives), broken) - broken:
        broken |= more
    return tuple(archive for archive in plan.archives if root(archive) not in broken)


def _is_broken(archive: PlanArchive, plan: Plan, given_up: frozenset[str]) -> bool:
    """Say whether the layer would not read as the same directory in an artifact of any kind, or is not wanted."""
    name = title(archive)
    is_plain = titles.is_directory(archive.blob) and not archive.is_image_layer and not archive.skips_links
    return (
        not is_plain or plan.selection.narrows or name != ("/".join(root(archive)) or titles.ROOT) or name in given_up
    )


def _overlapping(roots: Iterable[Path], paths: Iterable[Path]) -> set[Path]:
    """Return the roots that are at, above or below any of `paths`."""
    at = set(paths)
    above = {path[:depth] for path in at for depth in range(len(path) + 1)}
    return {one for one in roots if one in above or any(one[:depth] in at for depth in range(len(one) + 1))}
