"""Extraction: the members of archives become names in a view, and their contents go to a sink.

An archive is put together in a view of its own first, where no name may come twice, and then merged: an image's
layer may replace and white out what came before, any other archive may not. Links are resolved in these tables and
never on a disk: a hard link is a second name of a file or link already seen, a symbolic link is kept as the shortest
way to what it means inside the volume, so that no chain of links leads out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from csi_oras.errors import HostileContentError, printable
from csi_oras.oci.link import link_target
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import ConflictError, Directory, File, Link, Node, View
from csi_oras.unpack.names import hard_link_target, member_name, plain
from csi_oras.unpack.reader import Reader, Source, UnpackLimits, hostile
from csi_oras.unpack.tar import Member, MemberKind

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_BOOKKEEPING = ".wh..wh."
"""What AUFS kept for itself beside whiteouts, and old images still hold; image tools pass over it, too."""
_EXECUTABLE = 0o111


class Sink(Protocol):
    """What takes the contents of files."""

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Keep a file's content, and return the file."""


@dataclass(slots=True)
class _Layer:
    """What one archive brings: names that are selected, names that are needed by others, and what it takes away."""

    archive: PlanArchive
    view: View = field(default_factory=View)
    unseen: View = field(default_factory=View)
    whiteouts: list[Name] = field(default_factory=list)
    opaque: list[Name | None] = field(default_factory=list)


class Extractor:
    """Puts archives together in one view, in the order in which they are given.

    `needed` names what nobody sees and hard links that are selected mean.
    """

    def __init__(self, selection: Selection, sink: Sink, limits: UnpackLimits, needed: frozenset[Name]) -> None:
        self.view = View()
        self._unseen = View()
        self._selection = selection
        self._needed = needed
        self._sink = sink
        self._reader = Reader(limits)

    def extract(self, source: Source) -> None:
        """Add what an archive brings.

        Raises:
            HostileContentError, UnsupportedContentError: it is no archive, or has members that no honest tool makes.
            DigestMismatchError: it is another archive than the artifact says.
            LimitExceededError: it is larger, unpacked, than node policy allows.
        """
        layer = _Layer(source.archive)
        for member, content in self._reader.read(source, lambda: layer.view.implied + layer.unseen.implied):
            try:
                self._take(layer, member, content)
            except (ConflictError, UnsafeNameError) as error:
                raise hostile(source.subject, member, str(error)) from None
        try:
            self._merge(layer)
        except ConflictError as error:
            raise HostileContentError(
                source.subject, str(error), "push the artifact again under distinct names"
            ) from None

    def find(self, name: Name) -> Node | None:
        """Return what is at `name` in what was extracted so far, be it selected or only needed."""
        return self.view.find(name) or self._unseen.find(name)

    def _take(self, layer: _Layer, member: Member, content: Iterator[memoryview]) -> None:
        if layer.archive.is_image_layer and _takes_away(layer, member):
            return
        name = member_name(layer.archive, member.name)
        if member.kind is not MemberKind.DIRECTORY and (name is None or member.name.endswith("/")):
            raise UnsafeNameError("has the name of a directory, and is none")
        if name is None:  # the root is there already, and keeps its mode
            return
        is_selected = not self._selection.refusal(name)
        if not is_selected and name not in self._needed:
            return
        view = layer.view if is_selected else layer.unseen
        match member.kind:
            case MemberKind.DIRECTORY:
                view.add_directory(name)
            case MemberKind.FILE:
                view.add(name, self._file(view, name, member, content))
            case MemberKind.SPECIAL if is_selected:
                raise UnsafeNameError(f"is {member.target}")
            case MemberKind.SYMLINK if not layer.archive.skips_links:
                view.add(name, self._symlink(layer, name, member.target, is_selected=is_selected))
            case MemberKind.HARDLINK if not layer.archive.skips_links:
                view.add(name, self._hard_link(layer, name, member.target, is_selected=is_selected))

    def _file(self, view: View, name: Name, member: Member, content: Iterator[memoryview]) -> File:
        if view.find(name) is not None:  # before it is written
            raise ConflictError("is there twice")
        self._reader.kept += member.size
        return self._sink.add(content, member.size, 0o555 if member.mode & _EXECUTABLE else 0o444)

    def _symlink(self, layer: _Layer, name: Name, target: str, *, is_selected: bool) -> Link:
        if not is_selected:  # what it means depends on the hard link that needs it
            return Link("", target)
        path = self._selection.path
        root = path.components if path and path != name else ()
        return Link(link_target(target, name, root, may_be_absolute=layer.archive.is_image_layer), target)

    def _hard_link(self, layer: _Layer, name: Name, text: str, *, is_selected: bool) -> File | Link:
        target = hard_link_target(layer.archive, text)
        meant = self._seen(layer, target) if target else None
        if meant is None or isinstance(meant, Directory):
            raise UnsafeNameError(f'is a hard link to "{printable(text, 80)}", which is no file or link seen before')
        if isinstance(meant, Link):  # one text under two names, which reads differently in another directory
            try:
                return self._symlink(layer, name, meant.written, is_selected=is_selected)
            except UnsafeNameError as error:
                raise UnsafeNameError(f'is a hard link to "{printable(text, 80)}", which here {error}') from None
        return meant

    def _seen(self, layer: _Layer, name: Name) -> Node | None:
        found = layer.view.find(name) or layer.unseen.find(name)
        return self.find(name) if found is None and layer.archive.is_image_layer else found

    def _merge(self, layer: _Layer) -> None:
        for view, added in ((self.view, layer.view), (self._unseen, layer.unseen)):
            for directory in layer.opaque:
                view.empty(directory)
            for name in layer.whiteouts:
                view.remove(name)
            view.merge(added, replace=layer.archive.is_image_layer or view is self._unseen)


def _takes_away(layer: _Layer, member: Member) -> bool:
    """Note a whiteout (image-spec, layer.md), and say whether the member is one, or of what AUFS kept for itself."""
    above, _, last = member.name.rstrip("/").rpartition("/")
    directory = plain(above)
    if any(map(_is_bookkeeping, (*directory.split("/"), last))):
        return True
    if not last.startswith(_WHITEOUT):
        return False
    if last == _OPAQUE:
        layer.opaque.append(Name.parse(directory, portable=False) if directory else None)
    else:
        hidden = last.removeprefix(_WHITEOUT)
        layer.whiteouts.append(Name.parse(f"{directory}/{hidden}" if directory else hidden, portable=False))
    return True


def _is_bookkeeping(component: str) -> bool:
    return component.startswith(_BOOKKEEPING) and component != _OPAQUE
