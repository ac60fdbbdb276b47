"""Views: the names of a volume and what each of them is, put together from files, archives and change sets.

No name is ever looked up on a disk here. A view knows which names are files, directories and links, so that
whatever would be written through a link, over a file or outside of the root is refused before it is written.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from csi_oras.errors import printable
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name


class ConflictError(ValueError):
    """Why a name cannot be added: half a sentence, to be completed with the artifact and the layer."""


@dataclass(frozen=True, slots=True)
class File:
    """A file's content; `mode` is 0444 or 0555. It is a blob of the store, or came out of an archive."""

    content: Digest
    size: int
    mode: int
    is_blob: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; `target` is relative and stays inside the volume, `written` what its archive had for it."""

    target: str
    written: str = field(default="", compare=False, repr=False)


@dataclass(slots=True)
class Directory:
    """A directory and what is in it; `is_named` where it was given as such, and is not there for a name below only."""

    children: "dict[str, Node]" = field(default_factory=dict)
    is_named: bool = False


Node = File | Link | Directory


class View:
    """A tree of names in the making."""

    def __init__(self) -> None:
        self.root = Directory()
        self.implied = 0
        """Directories that are there for a name below only."""
        self.is_file = False
        """Whether the view is one file, alone under its own name."""

    def add(self, name: Name, node: File | Link, *, replace: bool = False) -> None:
        """Put a file or a link at `name`; with `replace` it takes the place of what an earlier layer put there.

        Raises:
            ConflictError: something is there, or a file or a link stands where a directory is needed.
        """
        directory = self._directory(name.components[:-1])
        last = name.components[-1]
        there = directory.children.get(last)
        if there is not None and not replace:
            raise ConflictError("is there twice" if not isinstance(there, Directory) else "is a directory already")
        directory.children[last] = node

    def add_directory(self, name: Name, *, replace: bool = False) -> None:
        """Have a directory at `name`, which may be there already; with `replace` also in the place of a file or link.

        Raises:
            ConflictError: a file or a link is there, or stands where a directory is needed.
        """
        parent = self._directory(name.components[:-1])
        last = name.components[-1]
        there = parent.children.get(last)
        if isinstance(there, Directory):
            there.is_named = True
            return
        if there is not None and not replace:
            raise ConflictError("is a file or a link already")
        parent.children[last] = Directory(is_named=True)

    def find(self, name: Name) -> Node | None:
        """Return what is at `name`; links are not followed."""
        node: Node | None = self.root
        for component in name.components:
            node = node.children.get(component) if isinstance(node, Directory) else None
        return node

    def remove(self, name: Name) -> None:
        """Take away what is at `name`, if anything is, with everything below.

        Raises:
            ConflictError: a link stands on the way to it.
        """
        self._refuse_links(name.components[:-1])
        parent = self.find(Name(name.components[:-1])) if len(name.components) > 1 else self.root
        if isinstance(parent, Directory):
            parent.children.pop(name.components[-1], None)

    def empty(self, name: Name | None) -> None:
        """Take away whatever is in a directory (None: the root), if there is one.

        Raises:
            ConflictError: a link stands on the way to it.
        """
        self._refuse_links(name.components if name else ())
        directory = self.root if name is None else self.find(name)
        if isinstance(directory, Directory):
            directory.children.clear()

    def _refuse_links(self, components: tuple[str, ...]) -> None:
        for depth in range(1, len(components) + 1):
            if isinstance(self.find(Name(components[:depth])), Link):
                raise ConflictError(f'would take away through "{components[depth - 1]}", which is a link')

    def merge(self, other: "View", *, replace: bool) -> None:
        """Add everything that `other` has; with `replace` its names win over those that are here.

        Raises:
            ConflictError: a name of both that cannot be merged.
        """
        for components, node in other.walk():
            name = Name(components)
            try:
                if not isinstance(node, Directory):
                    self.add(name, node, replace=replace)
                elif node.is_named:
                    self.add_directory(name, replace=replace)
                else:
                    self._directory(components)
            except ConflictError as error:
                raise ConflictError(f'"{printable(str(name), 80)}" {error}') from None

    def rooted(self, path: Name) -> "View":
        """Return the view with what is at `path` as its root; a file is alone in it, under its own last name."""
        view, node = View(), self.find(path)
        if isinstance(node, Directory):
            view.root = node
        elif node is not None:
            view.add(Name(path.components[-1:]), node)
            view.is_file = True
        return view

    def _directory(self, components: tuple[str, ...]) -> Directory:
        directory = self.root
        for component in components:
            node = directory.children.get(component)
            if node is None:
                node = directory.children[component] = Directory()
                self.implied += 1
            if not isinstance(node, Directory):
                what = "a link" if isinstance(node, Link) else "a file"
                raise ConflictError(f'would be written through "{component}", which is {what}')
            directory = node
        return directory

    def walk(self) -> Iterator[tuple[tuple[str, ...], Node]]:
        """Yield every name but the root with what it is, a directory before what is in it."""
        pending: list[tuple[tuple[str, ...], Directory]] = [((), self.root)]
        while pending:
            above, directory = pending.pop()
            for component, node in directory.children.items():
                components = (*above, component)
                yield components, node
                if isinstance(node, Directory):
                    pending.append((components, node))

    def look_alikes(self) -> tuple[Name, Name] | None:
        """Return two names that look the same (equal in NFC and not in bytes), if there are any."""
        root: tuple[tuple[str, ...], Node] = ((), self.root)
        for above, node in chain([root], self.walk()):
            if not isinstance(node, Directory) or all(map(str.isascii, node.children)):
                continue
            seen: dict[str, str] = {}
            for component in node.children:
                first = seen.setdefault(unicodedata.normalize("NFC", component), component)
                if first != component:
                    return Name((*above, first)), Name((*above, component))
        return None

    @property
    def files(self) -> int:
        """The number of files and links."""
        return sum(1 for _, node in self.walk() if not isinstance(node, Directory))

    @property
    def size(self) -> int:
        """The bytes of all files; a hard link counts as a file."""
        return sum(node.size for _, node in self.walk() if isinstance(node, File))
