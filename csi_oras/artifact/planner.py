"""The planner: manifest and selection in, plan out.

The plan never holds two files for one name, nor a file where another name needs a directory.
"""

from collections.abc import Iterable
from dataclasses import replace

from csi_oras.artifact import generic
from csi_oras.artifact.selection import Selection
from csi_oras.errors import HostileContentError, InvalidRequestError, UnsupportedContentError, printable
from csi_oras.oci import media_types
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import LeftOut, Plan, PlanEntry


def plan(manifest: Manifest, selection: Selection, subject: str) -> Plan:
    """Decide what a volume of `manifest` shows.

    Raises:
        HostileContentError: unsafe or contradictory names.
        UnsupportedContentError: a selected layer would have to be unpacked.
        InvalidRequestError: the selection leaves nothing, or `path` names nothing.
    """
    wanted: list[PlanEntry] = []
    left: list[LeftOut] = []
    for entry in generic.entries(manifest, subject):
        if isinstance(entry, LeftOut):
            left.append(entry)
        elif reason := _refusal(entry, selection):
            left.append(LeftOut(layer=entry.layer, reason=f"{entry.name}: {reason}"))
        else:
            wanted.append(entry)
    _refuse_two_sizes(manifest, subject)
    _refuse_packed(wanted, selection, subject)
    files = _without_duplicates(wanted, subject)
    _refuse_collisions(files.values(), subject)
    offers_files = any(layer.media_type != media_types.EMPTY for layer in manifest.layers)
    if not files and (offers_files or selection.path):
        raise InvalidRequestError(subject, _nothing_selected(selection), "compare with: csi-oras inspect")
    rooted, single = _below_path(files.values(), selection.path)
    return Plan(entries=tuple(sorted(rooted, key=lambda entry: entry.name)), left=tuple(left), single=single)


def _refusal(entry: PlanEntry, selection: Selection) -> str:
    if selection.media_types and entry.blob.media_type not in selection.media_types:
        return f"media type {entry.blob.media_type} not selected"
    return selection.refusal(entry.name)


def _refuse_two_sizes(manifest: Manifest, subject: str) -> None:
    """One blob has one size: a fetch checks one descriptor of it, and the others would be believed unseen."""
    sizes = {layer.digest: layer.size for layer in reversed(manifest.layers)}
    for number, layer in enumerate(manifest.layers):
        if sizes[layer.digest] != layer.size:
            raise HostileContentError(
                f"{subject}, layer {number} ({layer.digest.short})",
                f"has {layer.size} bytes here and {sizes[layer.digest]} in another layer",
                "push the artifact again",
            )


def _refuse_packed(entries: Iterable[PlanEntry], selection: Selection, subject: str) -> None:
    for entry in entries:
        if selection.unpack and entry.blob.annotations.get(media_types.UNPACK) == "true":
            raise UnsupportedContentError(
                f"{subject}, layer {entry.layer} ({printable(str(entry.name), 80)})",
                "is a packed directory, which this release cannot unpack",
                "set unpack: never to mount the archive as it is, or leave it out with exclude",
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
    for entry in files.values():
        for parent in entry.name.parents:
            if first_file := files.get(parent.normalised):
                raise _collision(subject, first_file, entry, "are a file and a directory of one name")


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
