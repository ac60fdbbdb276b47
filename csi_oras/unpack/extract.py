"""Extraction: the members of archives become names in a view, and their contents go to a sink.

An archive is put together in a view of its own first, where no name may come twice, and then merged: an image's
layer may replace and white out what came before, any other archive may not. Links are resolved in these tables and
never on a disk: a hard link is a second name of a file already seen, a symbolic link is kept as the shortest way to
what it means inside the volume, so that no chain of links leads out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from csi_oras.errors import HostileContentError, printable
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import ConflictError, File, Link, View
from csi_oras.unpack.names import link_target, member_name, plain
from csi_oras.unpack.reader import Reader, Source, UnpackLimits
from csi_oras.unpack.tar import Member, MemberKind

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_BOOKKEEPING = ".wh..wh."
"""What AUFS kept for itself beside whiteouts, and old images still hold."""
_EXECUTABLE = 0o111


class Sink(Protocol):
    """What takes the contents of files."""

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Keep a file's content, and return the file."""


@dataclass(slots=True)
class _Layer:
    """What one archive brings: its names, the files that its hard links may mean, and what it takes away."""

    view: View = field(default_factory=View)
    files: dict[Name, File] = field(default_factory=dict)
    whiteouts: list[Name] = field(default_factory=list)
    opaque: list[Name | None] = field(default_factory=list)


class Extractor:
    """Puts archives together in one view, in the order in which they are given."""

    def __init__(self, selection: Selection, sink: Sink, limits: UnpackLimits) -> None:
        self.view = View()
        self._selection = selection
        self._sink = sink
        self._limits = limits
        self._reader = Reader(limits)

    def extract(self, source: Source) -> None:
        """Add what an archive brings.

        Raises:
            HostileContentError, UnsupportedContentError: it is no archive, or has members that no honest tool makes.
            DigestMismatchError: it is another archive than the artifact says.
            LimitExceededError: it is larger, unpacked, than node policy allows.
        """
        layer = _Layer()
        linked = self._linked(source) if self._selection.narrows else frozenset()
        for member, content in self._reader.read(source, lambda: layer.view.implied):
            try:
                self._take(layer, source.archive, member, content, linked)
            except (ConflictError, UnsafeNameError) as error:
                raise _hostile(source.subject, member, str(error)) from None
        try:
            self._merge(layer, replace=source.archive.is_image_layer)
        except ConflictError as error:
            raise HostileContentError(
                source.subject, str(error), "push the artifact again under distinct names"
            ) from None

    def _linked(self, source: Source) -> frozenset[Name]:
        """Return what selected hard links mean, so that it is kept though it may not be selected itself."""
        found = set()
        archive = replace(source.archive, content=None)  # it is checked when it is read again
        for member, _ in Reader(self._limits).read(replace(source, archive=archive)):
            if member.kind is MemberKind.HARDLINK:
                try:
                    name, target = member_name(archive, member.name), member_name(archive, member.target)
                except UnsafeNameError as error:
                    raise _hostile(source.subject, member, str(error)) from None
                if name and target and not self._selection.refusal(name):
                    found.add(target)
        return frozenset(found)

    def _take(
        self,
        layer: _Layer,
        archive: PlanArchive,
        member: Member,
        content: Iterator[memoryview],
        linked: frozenset[Name],
    ) -> None:
        if archive.is_image_layer and _takes_away(layer, member):
            return
        name = member_name(archive, member.name)
        if member.kind is not MemberKind.DIRECTORY and (name is None or member.name.endswith("/")):
            raise UnsafeNameError("has the name of a directory, and is none")
        if name is None:  # the root is there already, and keeps its mode
            return
        selected = not self._selection.refusal(name)
        if member.kind is MemberKind.DIRECTORY:
            if selected:
                layer.view.add_directory(name)
        elif member.kind is MemberKind.FILE:
            self._take_file(layer, name, member, content, selected=selected, wanted=selected or name in linked)
        elif member.kind is MemberKind.SPECIAL:
            if selected:
                raise UnsafeNameError(f"is {member.target}")
        elif selected and not archive.skips_links:
            layer.view.add(name, self._link(layer, archive, member, name))

    def _take_file(
        self, layer: _Layer, name: Name, member: Member, content: Iterator[memoryview], *, selected: bool, wanted: bool
    ) -> None:
        if not wanted:
            return
        if selected and layer.view.find(name) is not None:  # before it is written
            raise ConflictError("is there twice")
        mode = 0o555 if member.mode & _EXECUTABLE else 0o444
        file = layer.files[name] = self._sink.add(content, member.size, mode)
        self._reader.kept += member.size
        if selected:
            layer.view.add(name, file)

    def _link(self, layer: _Layer, archive: PlanArchive, member: Member, name: Name) -> File | Link:
        if member.kind is MemberKind.SYMLINK:
            root = self._selection.path.components if self._selection.path else ()
            return Link(link_target(member.target, name, root, may_be_absolute=archive.is_image_layer))
        target = member_name(archive, member.target)
        file = layer.files.get(target) if target else None
        if file is None and target and archive.is_image_layer:
            below = self.view.find(target)
            file = below if isinstance(below, File) else None
        if file is None:
            raise UnsafeNameError(f'is a hard link to "{printable(member.target, 80)}", which is no file seen before')
        layer.files[name] = file
        return file

    def _merge(self, layer: _Layer, *, replace: bool) -> None:
        for directory in layer.opaque:
            self.view.empty(directory)
        for name in layer.whiteouts:
            self.view.remove(name)
        self.view.merge(layer.view, replace=replace)


def _takes_away(layer: _Layer, member: Member) -> bool:
    """Note a whiteout (image-spec, layer.md), and say whether the member is one."""
    above, _, last = member.name.rstrip("/").rpartition("/")
    if not last.startswith(_WHITEOUT):
        return False
    directory = plain(above)
    if last == _OPAQUE:
        layer.opaque.append(Name.parse(directory, portable=False) if directory else None)
    elif not last.startswith(_BOOKKEEPING):
        hidden = last.removeprefix(_WHITEOUT)
        layer.whiteouts.append(Name.parse(f"{directory}/{hidden}" if directory else hidden, portable=False))
    return True


def _hostile(subject: str, member: Member, cause: str) -> HostileContentError:
    return HostileContentError(
        subject,
        f'member "{printable(member.name, 80)}" {cause}',
        "leave it out with exclude where that is possible, or push the artifact again",
    )
