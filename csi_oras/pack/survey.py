"""Surveys: a writable volume, as its pod left it, and the layers that it becomes."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from csi_oras.errors import ContentChangedError
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Plan
from csi_oras.oci.selection import Selection
from csi_oras.pack import archives
from csi_oras.pack.found import Change, File, Origin, Path
from csi_oras.pack.layers import LayerPlan, plan_layers
from csi_oras.pack.merge import Uncarriable, merge
from csi_oras.pack.walk import SourceFile, WalkLimits, given, open_file, written


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The open directories of a volume: what its pod wrote, and the tree that it was given by `plan`, if any.

    Blobs of the plan that are `absent` are not to be had any more; what they brought, the tree still has.
    """

    upper: int
    tree: int | None = None
    plan: Plan = field(default_factory=Plan)
    absent: frozenset[Digest] = frozenset()
    subject: str

    def open(self, name: Name, file: File) -> SourceFile:
        """Open a file that a survey has found.

        Raises:
            ContentChangedError: something else is there now.
            StoreBrokenError: it cannot be read.
        """
        root = self.upper if file.origin is Origin.UPPER or self.tree is None else self.tree
        return open_file(root, name.components, file, self.subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The layers of a volume in the order of their titles, whether it differs from its base, and what is in the way."""

    layers: tuple[LayerPlan, ...]
    uncarriable: tuple[Uncarriable, ...]
    is_changed: bool
    written: bytes
    """What stands for the files that the pod wrote, as far as they are selected."""


def survey(volume: Volume, selection: Selection, limits: WalkLimits, most_files: int) -> Survey:
    """Find out what a volume becomes; small files become at most `most_files` layers of their own.

    Raises:
        LimitExceededError: the pod wrote more than `limits` allow.
        ContentChangedError: somebody still writes to it.
        StoreBrokenError: it cannot be read.
    """
    changes = list(written(volume.upper, selection, limits, volume.subject))
    absent = {archives.root(one) for one in volume.plan.archives if one.blob.digest in volume.absent}
    in_part = {archives.root(one) for one in volume.plan.archives if not selection.takes_all(one.root)}
    kept = _unseen(volume.plan, absent.union(in_part, (path for path, _ in changes)))
    base = () if volume.tree is None else given(volume.tree, selection, kept, volume.subject)
    merged = merge(base, changes, selection)
    return Survey(
        layers=tuple(plan_layers(replace(merged, lost=merged.lost | absent), volume.plan, most_files)),
        uncarriable=merged.uncarriable,
        is_changed=merged.is_changed,
        written=_fingerprint(changes, selection),
    )


def check_unchanged(volume: Volume, selection: Selection, limits: WalkLimits, found: Survey) -> None:
    """See to it that nobody has written to a volume since it was surveyed, as far as names, sizes and times tell.

    Raises:
        ContentChangedError: somebody has.
        LimitExceededError, StoreBrokenError: as for `survey`.
    """
    if _fingerprint(written(volume.upper, selection, limits, volume.subject), selection) != found.written:
        raise ContentChangedError(volume.subject, "was written to while it was pushed", "it is pushed again")


def _fingerprint(changes: Iterable[Change], selection: Selection) -> bytes:
    """Return what stands for what a walk has found: of files also what tells whether they stay as they are."""
    hasher = hashlib.sha256()
    for path, found in changes:
        if not selection.refusal(Name(path)):
            hasher.update(f"{path!r} {found!r}\n".encode())
    return hasher.digest()


def _unseen(plan: Plan, touched: Iterable[Path]) -> frozenset[Path]:
    """Return directories of the base that need no look: archives bring them whose layers will be reused as they are."""
    return frozenset(map(archives.root, archives.whole(plan, touched))) - {()}
