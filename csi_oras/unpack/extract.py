"""Extraction: the members of archives become names in a view, and their contents go to a sink.

An archive is put together in a view of its own first, where no name may come twice, and then merged: an image's
layer may replace and white out what came before, any other archive may not. Links are resolved in these tables and
never on a disk: a hard link is a second name of a file already seen, a symbolic link is kept as the shortest way to
what it means inside the volume, so that no chain of links leads out.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from csi_oras.errors import DigestMismatchError, HostileContentError, LimitExceededError, printable
from csi_oras.oci.digest import Digest, Hasher
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import ConflictError, File, Link, View
from csi_oras.unpack.ahead import ahead
from csi_oras.unpack.decompress import OutputLimits, decompressed
from csi_oras.unpack.tar import Member, MemberKind, members

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_BOOKKEEPING = ".wh..wh."
"""What AUFS kept for itself beside whiteouts, and old images still hold."""
_EXECUTABLE = 0o111
_LEADING = re.compile(r"(?:\./)+")


_Item = tuple[Member, Iterator[memoryview]]


class Sink(Protocol):
    """What takes the contents of files."""

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Keep a file's content, and return the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """Members and bytes of all archives together (0 bytes: no limit), and how many times its packed size one may be."""

    members: int
    size: int
    ratio: int


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
        self._members = 0
        self._size = 0
        self._packed: set[Digest] = set()
        self._packed_size = 0
        self._unpacked = 0

    def extract(self, archive: PlanArchive, open_blob: Callable[[], BinaryIO], subject: str) -> None:
        """Add what `archive` brings.

        Raises:
            HostileContentError, UnsupportedContentError: it is no archive, or has members that no honest tool makes.
            DigestMismatchError: it is another archive than the artifact says.
            LimitExceededError: it is larger, unpacked, than node policy allows.
        """
        layer = _Layer()
        linked = self._linked(archive, open_blob, subject) if self._selection.narrows else frozenset()
        hasher = archive.content.hasher() if archive.content else None
        for member, content in self._read(archive, open_blob, subject, hasher):
            try:
                self._take(layer, archive, member, content, linked)
            except (ConflictError, UnsafeNameError) as error:
                raise _hostile(subject, member, str(error)) from None
            self._members += 1
            self._check_count(self._members + layer.view.implied, subject)
        self._members += layer.view.implied
        if archive.content and hasher:
            _check_digest(archive.content, hasher, subject)
        try:
            self._merge(layer, replace=archive.is_image_layer)
        except ConflictError as error:
            raise HostileContentError(subject, str(error), "push the artifact again under distinct names") from None

    def _read(
        self, archive: PlanArchive, open_blob: Callable[[], BinaryIO], subject: str, hasher: Hasher | None
    ) -> Iterator[_Item]:
        room = max(self._limits.size - self._size, 1) if self._limits.size else 0
        limits = OutputLimits(size=room, ratio=self._limits.ratio, before=self._unpacked)
        if archive.blob.digest not in self._packed:  # one blob in many layers is no more to unpack from
            self._packed.add(archive.blob.digest)
            self._packed_size += archive.blob.size
        with open_blob() as source:
            unpacked = self._measured(decompressed(source, archive.compression, self._packed_size, limits, subject))
            with closing(ahead(_hashed(unpacked, hasher) if hasher else unpacked)) as chunks:
                yield from self._counted(members(chunks, subject), subject)

    def _measured(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._unpacked += len(chunk)
            yield chunk

    def _counted(self, found: Iterator[_Item], subject: str) -> Iterator[_Item]:
        for number, item in enumerate(found, self._members + 1):
            self._check_count(number, subject)
            yield item

    def _check_count(self, count: int, subject: str) -> None:
        if count > self._limits.members:
            raise LimitExceededError(
                subject,
                f"has more than the {self._limits.members} files and directories that node policy allows",
                "raise limits.files, or mount less of it",
            )

    def _linked(self, archive: PlanArchive, open_blob: Callable[[], BinaryIO], subject: str) -> frozenset[Name]:
        """Return what selected hard links mean, so that it is kept though it may not be selected itself."""
        found = set()
        before = self._unpacked
        for member, _ in self._read(archive, open_blob, subject, None):
            if member.kind is MemberKind.HARDLINK:
                try:
                    name, target = _name(archive, member.name), _name(archive, member.target)
                except UnsafeNameError as error:
                    raise _hostile(subject, member, str(error)) from None
                if name and target and not self._selection.refusal(name):
                    found.add(target)
        self._unpacked = before  # it is read again
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
        name = _name(archive, member.name)
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
        self._size += member.size
        if selected:
            layer.view.add(name, file)

    def _link(self, layer: _Layer, archive: PlanArchive, member: Member, name: Name) -> File | Link:
        if member.kind is MemberKind.SYMLINK:
            root = self._selection.path.components if self._selection.path else ()
            return Link(_inside(member.target, name, root, may_be_absolute=archive.is_image_layer))
        target = _name(archive, member.target)
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
    directory = _plain(above)
    if last == _OPAQUE:
        layer.opaque.append(Name.parse(directory, portable=False) if directory else None)
    elif not last.startswith(_BOOKKEEPING):
        hidden = last.removeprefix(_WHITEOUT)
        layer.whiteouts.append(Name.parse(f"{directory}/{hidden}" if directory else hidden, portable=False))
    return True


def _plain(text: str) -> str:
    """Drop what tar itself puts around a name: a leading `./`, and a slash at the end of a directory."""
    if (leading := _LEADING.match(text)) is not None:
        text = text[leading.end() :]
    if text == ".":
        return ""
    return text if text == "/" else text.removesuffix("/")


def _name(archive: PlanArchive, text: str) -> Name | None:
    """Return the name that a member has in the artifact, or None for the root.

    Raises:
        UnsafeNameError: it is no safe name, or outside of where the archive's members belong.
    """
    plain = _plain(text)
    if not plain:
        return None
    name = Name.parse(plain, portable=not archive.is_image_layer)
    if archive.prefix and name != archive.prefix and name.below(archive.prefix) is None:
        raise UnsafeNameError(f'is outside of "{printable(str(archive.prefix), 80)}", which the layer is named for')
    return Name((*archive.directory.components, *name.components)) if archive.directory else name


def _inside(target: str, name: Name, root: tuple[str, ...], *, may_be_absolute: bool) -> str:
    """Return the shortest relative way from a link to its target, which must stay below `root`.

    Raises:
        UnsafeNameError: it does not.
    """
    shown = f'"{printable(target, 80)}"'
    if target.startswith("/") and not may_be_absolute:
        raise UnsafeNameError(f"is a symbolic link to {shown}, an absolute path")
    here = name.components[:-1]
    there = [] if target.startswith("/") else list(here)
    floor = 0 if target.startswith("/") else len(root)
    for component in target.split("/"):
        if component == "..":
            if len(there) <= floor:
                raise UnsafeNameError(f"is a symbolic link to {shown}, outside of the volume")
            there.pop()
        elif component not in ("", "."):
            there.append(component)
    if tuple(there[: len(root)]) != root:
        raise UnsafeNameError(f"is a symbolic link to {shown}, outside of the volume")
    if not target or (there and not _is_safe(there)):
        raise UnsafeNameError(f"is a symbolic link to {shown}, which is no safe path")
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    return "/".join([".."] * (len(here) - common) + there[common:]) or "."


def _is_safe(components: list[str]) -> bool:
    try:
        Name.parse("/".join(components), portable=False)
    except UnsafeNameError:
        return False
    return True


def _hashed(chunks: Iterator[bytes], hasher: Hasher) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _check_digest(expected: Digest, hasher: Hasher, subject: str) -> None:
    if hasher.hexdigest() != expected.encoded:
        raise DigestMismatchError(
            subject,
            f"unpacks to an archive with digest {expected.algorithm}:{hasher.hexdigest()}, not {expected}",
            "push it again, or report it",
        )


def _hostile(subject: str, member: Member, cause: str) -> HostileContentError:
    return HostileContentError(
        subject,
        f'member "{printable(member.name, 80)}" {cause}',
        "leave it out with exclude where that is possible, or push the artifact again",
    )
