"""The planner: artifact and selection in, plan out.

The plan never holds two files for one name, nor a file where another name needs a directory. What comes out of
archives is held to the same when they are unpacked.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from csi_oras.artifact.kind import Artifact, Kind
from csi_oras.errors import HostileContentError, InvalidRequestError, printable
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import METADATA, Name
from csi_oras.oci.plan import LeftOut, Plan, PlanArchive, PlanEntry
from csi_oras.oci.selection import Selection


@dataclass(slots=True)
class _Wanted:
    entries: list[PlanEntry] = field(default_factory=list)
    archives: list[PlanArchive] = field(default_factory=list)
    left: list[LeftOut] = field(default_factory=list)


def plan(artifact: Artifact, kind: Kind, selection: Selection) -> Plan:
    """Decide what a volume of `artifact` shows.

    Raises:
        HostileContentError: unsafe or contradictory names.
        UnsupportedContentError: content that the kind cannot show.
        InvalidRequestError: the selection leaves nothing, or `path` names nothing.
    """
    subject = str(artifact.reference)
    wanted = _select(artifact, kind, selection)
    _refuse_two_sizes(artifact.manifest, subject)
    files = _without_duplicates(wanted.entries, subject)
    _refuse_collisions(files.values(), subject)
    rooted, single = _below_path(files.values(), selection.path)
    archives = () if single else tuple(wanted.archives)
    offers_files = any(layer.media_type != media_types.EMPTY for layer in artifact.manifest.layers)
    if not rooted and not archives and (offers_files or selection.path):
        raise InvalidRequestError(subject, _nothing_selected(selection), "compare with: csi-oras inspect")
    if selection.metadata:
        rooted = [*_with_room_for_metadata(rooted, subject, single=single), *metadata(artifact)]
    return Plan(
        entries=tuple(sorted(rooted, key=lambda entry: entry.name)),
        archives=archives,
        left=tuple(wanted.left),
        selection=selection,
        single=single,
    )


def metadata(artifact: Artifact) -> list[PlanEntry]:
    """Return the files by which a pod can tell what it was given."""
    manifest = Descriptor(media_type=artifact.manifest.media_type, digest=artifact.digest, size=artifact.size)
    reference = Descriptor.of(reference_text(artifact), "text/plain")
    return [
        PlanEntry(name=Name((METADATA, "manifest.json")), blob=manifest, layer=None, rule="metadata", is_local=True),
        PlanEntry(name=Name((METADATA, "config")), blob=artifact.manifest.config, layer=None, rule="metadata"),
        PlanEntry(name=Name((METADATA, "reference")), blob=reference, layer=None, rule="metadata", is_local=True),
    ]


def reference_text(artifact: Artifact) -> bytes:
    """Return what `.oci/reference` holds: the reference, pinned by digest, as a line."""
    return f"{artifact.reference.pinned(artifact.root)}\n".encode()


def _select(artifact: Artifact, kind: Kind, selection: Selection) -> _Wanted:
    wanted = _Wanted()
    for item in kind.items(artifact, selection.unpack):
        if isinstance(item, LeftOut):
            wanted.left.append(item)
        elif reason := _refusal(item, selection):
            if item.layer is not None:
                wanted.left.append(LeftOut(layer=item.layer, reason=reason))
        elif isinstance(item, PlanArchive):
            wanted.archives.append(item)
        else:
            wanted.entries.append(item)
    return wanted


def _refusal(item: PlanEntry | PlanArchive, selection: Selection) -> str:
    if selection.media_types and item.blob.media_type not in selection.media_types:
        reason = f"media type {item.blob.media_type} not selected"
    elif isinstance(item, PlanArchive):
        reason = "not selected" if selection.passes_over(item.root) else ""
    else:
        reason = selection.refusal(item.name)
    name = item.root if isinstance(item, PlanArchive) else item.name
    return f"{name}: {reason}" if reason and name else reason


def _refuse_two_sizes(manifest: Manifest, subject: str) -> None:
    """One blob has one size: a fetch checks one descriptor of it, and the others would be believed unseen."""
    sizes = {blob.digest: blob.size for blob in (manifest.config, *reversed(manifest.layers))}
    for where, blob in (
        ("config", manifest.config),
        *((f"layer {n}", layer) for n, layer in enumerate(manifest.layers)),
    ):
        if sizes[blob.digest] != blob.size:
            raise HostileContentError(
                f"{subject}, {where} ({blob.digest.short})",
                f"has {blob.size} bytes here and {sizes[blob.digest]} in another place",
                "push the artifact again",
            )


def _without_duplicates(entries: Iterable[PlanEntry], subject: str) -> dict[Name, PlanEntry]:
    files: dict[Name, PlanEntry] = {}
    for entry in entries:
        first = files.setdefault(entry.name, entry)
        if first.blob.digest != entry.blob.digest:
            raise _collision(subject, first, entry, "have the same name")
    return files


def _refuse_collisions(entries: Iterable[PlanEntry], subject: str) -> None:
    files: dict[str, PlanEntry] = {}
    for entry in entries:
        first = files.setdefault(entry.name.normalised, entry)
        if first is not entry:
            raise _collision(subject, first, entry, "have names that look the same")
    directories: dict[str, tuple[Name, PlanEntry]] = {}
    for entry in files.values():
        for parent in entry.name.parents:
            if first_file := files.get(parent.normalised):
                raise _collision(subject, first_file, entry, "are a file and a directory of one name")
            name, first = directories.setdefault(parent.normalised, (parent, entry))
            if name != parent:
                raise _collision(subject, first, entry, "are in directories that look the same")


def _collision(subject: str, first: PlanEntry, second: PlanEntry, how: str) -> HostileContentError:
    return HostileContentError(
        f"{subject}, layers {first.layer} and {second.layer}",
        f'{how} ("{printable(str(second.name), 80)}")',
        "push the artifact again under distinct names",
    )


def _nothing_selected(selection: Selection) -> str:
    if selection.path:
        return f'path "{printable(str(selection.path), 80)}" is not in the artifact, or nothing of it is selected'
    return "include, exclude and mediaTypes leave no file"


def _below_path(entries: Iterable[PlanEntry], path: Name | None) -> tuple[list[PlanEntry], bool]:
    if path is None:
        return list(entries), False
    rooted = []
    for entry in entries:
        if entry.name == path:  # a file: nothing else can be below its name
            return [replace(entry, name=Name(path.components[-1:]))], True
        if below := entry.name.below(path):
            rooted.append(replace(entry, name=below))
    return rooted, False


def _with_room_for_metadata(entries: list[PlanEntry], subject: str, *, single: bool) -> list[PlanEntry]:
    if single:
        raise InvalidRequestError(subject, "metadata needs a directory, and path names a file", "leave one of them out")
    for entry in entries:
        if entry.name.components[0] == METADATA:
            raise HostileContentError(subject, f"brings a {METADATA} of its own, and metadata is asked for")
    return entries
