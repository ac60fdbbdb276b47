"""Layers: by which of them a merged volume becomes an artifact, in the order of their titles.

What the base has and nobody touched keeps its layer. A file is a layer of its own. A top-level directory that is not
only files is packed, as ORAS does, and so is each where there are more files than a manifest should have layers; large
files stay layers of their own even there. Packed directories are top-level ones because oras-py unpacks no other at its
place, and links that lead from one of them into another are packed for the root.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType

from csi_oras.oci import media_types, titles
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.link import link_end
from csi_oras.oci.name import METADATA, Name
from csi_oras.oci.plan import Plan, PlanArchive, PlanEntry
from csi_oras.pack import archives
from csi_oras.pack.found import Directory, File, Link, Origin, Path
from csi_oras.pack.merge import Carried, Merged

LARGE_BYTES = 16 << 20
"""A file from here on is never packed: it would be read, sent and unpacked again with whatever is beside it."""
_NAME_BYTES = 256
"""A name weighs in the manifest as another layer for each so many bytes."""
_EXECUTABLE_MODE = "0755"
_EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """A layer of the base: its blob is in the registry already, in the base's repository."""

    descriptor: Descriptor

    @property
    def title(self) -> str:
        """What the layer is titled."""
        return self.descriptor.annotations[media_types.TITLE]


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFile:
    """A file that becomes a layer; `before` is the base's of that name, which it may equal in content."""

    name: Name
    file: File
    before: Descriptor | None = None

    @property
    def title(self) -> str:
        """What the layer is titled."""
        return str(self.name)

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the layer."""
        return titled(self.name, is_executable=self.file.is_executable)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedDirectory:
    """Files, links and empty directories that are packed together, in the order of their names, all below `title`."""

    title: str
    members: tuple[tuple[Name, Carried], ...]


_Packed = dict[str, list[tuple[Name, Carried]]]
LayerPlan = Reused | WholeFile | PackedDirectory


def plan_layers(merged: Merged, plan: Plan, most_files: int) -> list[LayerPlan]:
    """Decide the layers of a volume over the base that `plan` says; no small file is one of more than `most_files`.

    The base may have more: what was a layer of its own there stays one.
    """
    reused = [entry for entry in plan.entries if _is_reused(entry, merged.lost)]
    blobs = {entry.name: entry.blob for entry in plan.entries}
    lost = merged.lost - {name.components for name in blobs}  # a layer of its own is no part of an archive
    given_up: frozenset[str] = frozenset()
    while True:
        whole = archives.whole(plan, lost, given_up)
        left = _left(merged, reused, blobs.keys(), whole)
        anew = {archives.title(archive) for archive in plan.archives if archive not in whole}
        files, packed = _shared_out(left, blobs.keys(), anew, most_files - len(reused) - len(whole))
        clashing = {archives.title(archive) for archive in whole} & packed.keys()
        if not clashing:  # ORAS takes no title twice
            break
        given_up |= clashing
    if not merged.kept <= {archives.root(archive) for archive in whole}:
        raise RuntimeError("a directory is to be packed that nobody has looked into")
    layers: list[LayerPlan] = [Reused(descriptor=_descriptor(entry)) for entry in reused]
    layers += [Reused(descriptor=archive.blob) for archive in whole]
    layers += [WholeFile(name=name, file=file, before=blobs.get(name)) for name, file in files.items()]
    layers += [PackedDirectory(title=title, members=tuple(members)) for title, members in packed.items()]
    return sorted(layers, key=lambda layer: layer.title)


def _is_reused(entry: PlanEntry, lost: frozenset[Path]) -> bool:
    """Say whether a file of the base is there as it was, is no metadata of ours, and is a blob in a registry."""
    path = entry.name.components
    is_lost = any(path[:depth] in lost for depth in range(1, len(path) + 1))
    return not is_lost and path[0] != METADATA and not entry.is_local


def _left(
    merged: Merged, reused: Iterable[PlanEntry], own: AbstractSet[Name], whole: Iterable[PlanArchive]
) -> dict[Name, Carried]:
    """Return what no layer of the base brings; `own` are the files that were layers of their own there."""
    by_entry = {entry.name for entry in reused}
    roots = {archives.root(archive) for archive in whole}
    emptied = {path[:-1] for path in merged.lost}

    def is_brought(name: Name, found: Carried) -> bool:
        path = name.components
        if found.origin is not Origin.BASE or path in emptied:
            return False
        if name in own:
            return name in by_entry
        return any(path[:depth] in roots for depth in range(len(path) + 1))

    return {name: found for name, found in merged.entries.items() if not is_brought(name, found)}


def _shared_out(
    left: dict[Name, Carried], own: AbstractSet[Name], anew: AbstractSet[str], room: int
) -> tuple[dict[Name, File], _Packed]:
    """Return the files that are layers of their own, and what is packed, by title.

    The base has `own` files as layers and brings `anew` directories packed, which both stay so; `room` is for more.
    """
    homes = {name: _home(name, found) for name, found in left.items()}
    small = {name for name, found in left.items() if isinstance(found, File) and found.size < LARGE_BYTES}
    before = anew & set(homes.values()) - {titles.ROOT}
    packing = before | {
        homes[name]
        for name, found in left.items()
        if not isinstance(found, File) or (name in small and found.origin is Origin.BASE and name not in own)
    } - {titles.ROOT}
    new = {name: homes[name] for name in small - own if homes[name] not in packing}
    room = max(room - len(small & own) - len(before), 0)
    packing |= _crowded(new, room - len(packing - before))
    if titles.ROOT in packing:
        homes |= dict.fromkeys(left.keys() - own, titles.ROOT)
    files: dict[Name, File] = {}
    packed: _Packed = {}
    for name, found in left.items():
        if isinstance(found, File) and (name not in small or homes[name] not in packing):
            files[name] = found
        else:
            packed.setdefault(homes[name], []).append((name, found))
    return files, packed


def _home(name: Name, found: Carried) -> str:
    """Return the title under which something is packed, if it is."""
    top = name.components[0]
    if isinstance(found, Directory):
        return top
    if len(name.components) == 1:
        return titles.ROOT
    leads_out = isinstance(found, Link) and link_end(found.target, name)[:1] != (top,)
    return titles.ROOT if leads_out else top


def _crowded(files: dict[Name, str], room: int) -> set[str]:
    """Return the titles under which to pack new small files, which are given with their homes, where there is no room.

    Each of their directories is packed; where these are too many, all goes into one archive for the root.
    """
    weights: Counter[str] = Counter()
    for name, home in files.items():
        weights[home] += 1 + len(str(name).encode()) // _NAME_BYTES
    if weights.total() <= room:
        return set()
    crowded = {home for home, weight in weights.items() if weight > 1} - {titles.ROOT}
    left = sum(weight for home, weight in weights.items() if home not in crowded)
    return crowded if left + len(crowded) <= room else {titles.ROOT}


def _descriptor(entry: PlanEntry) -> Descriptor:
    """Return the base's descriptor of a file, changed only where it would read as something else under a title."""
    blob = entry.blob
    is_executable = bool(entry.mode & _EXECUTABLE)
    is_file = not titles.is_directory(blob) and titles.is_executable(blob) == is_executable
    if is_file and blob.annotations.get(media_types.TITLE) == str(entry.name):
        return blob
    media_type = media_types.LAYER_TAR if blob.media_type == media_types.LAYER_TAR_GZIP else blob.media_type
    return Descriptor(
        media_type=media_type,
        digest=blob.digest,
        size=blob.size,
        annotations=MappingProxyType(titled(entry.name, is_executable=is_executable)),
    )


def titled(name: Name, *, is_executable: bool) -> dict[str, str]:
    """Return the annotations of a layer that is a file."""
    annotations = {media_types.TITLE: str(name)}
    if is_executable:
        annotations[media_types.MODE] = _EXECUTABLE_MODE
    return annotations
