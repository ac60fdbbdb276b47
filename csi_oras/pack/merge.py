"""Merging: the base and what was written above it become the names that the volume showed last.

The rules are overlayfs's (Linux, Documentation/filesystems/overlayfs.rst). What is not selected was not written: such
a name is not pushed, and such a deletion leaves the base's file where it was.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from csi_oras.errors import printable
from csi_oras.oci.link import link_end, link_target
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Change, Directory, File, Found, Kept, Link, Path, Special, Whiteout

Carried = File | Link | Directory
_NAME_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncarriable:
    """What no artifact can carry: its name, safe to print, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The files, links and empty directories of a volume in the order of their names, without what is kept unseen.

    `lost` are paths that the base has and the volume no more, or with another content; `kept` those of directories
    that nobody has looked into.
    """

    entries: dict[Name, Carried]
    uncarriable: tuple[Uncarriable, ...]
    lost: frozenset[Path]
    kept: frozenset[Path]
    is_changed: bool


@dataclass(slots=True)
class _Directory:
    """`found` is None where a directory is there for a name below only."""

    found: Directory | None = None
    children: "dict[str, _Node]" = field(default_factory=dict)


_Node = File | Link | Special | Kept | _Directory


def merge(base: Iterable[Change], written: Iterable[Change], selection: Selection) -> Merged:
    """Apply what was written, as far as `selection` takes it, to the base; both list a directory before its content."""
    tree = _Tree(selection)
    for path, found in base:
        tree.put(path, found)
    for path, found in written:
        tree.apply(path, found)
    entries: dict[Name, Carried] = {}
    uncarriable: list[Uncarriable] = []
    for path, node in sorted(tree.leaves(), key=lambda leaf: leaf[0]):
        if reason := tree.refusal(path, node):
            uncarriable.append(Uncarriable(name=_shown(path), reason=reason))
        elif isinstance(node, File | Link | Directory):
            entries[Name(path)] = node
    return Merged(
        entries=entries,
        uncarriable=tuple(uncarriable),
        lost=frozenset(tree.lost),
        kept=frozenset(tree.kept),
        is_changed=tree.is_changed,
    )


def first_uncarriable(base: Iterable[Change]) -> Uncarriable | None:
    """Return something of a base that no artifact could carry on, or None: what a tree shows of an image, above all."""
    special = ((path, found) for path, found in base if isinstance(found, Special))
    return next((Uncarriable(name=_shown(path), reason=found.reason) for path, found in special), None)


class _Tree:
    """The names of a volume in the making."""

    def __init__(self, selection: Selection) -> None:
        self.lost: set[Path] = set()
        self.kept: set[Path] = set()
        self.is_changed = False
        self._selection = selection
        self._root = _Directory()

    def put(self, path: Path, found: Found) -> None:
        """Have at `path` what is found there, and directories above it."""
        directory = self._root
        for depth, component in enumerate(path[:-1], 1):
            node = directory.children.get(component)
            if not isinstance(node, _Directory):
                if node is not None:
                    self.lost.add(path[:depth])
                node = directory.children[component] = _Directory()
            directory = node
        if isinstance(found, Kept):
            self.kept.add(path)
        if not isinstance(found, Whiteout):
            directory.children[path[-1]] = _Directory(found) if isinstance(found, Directory) else found

    def apply(self, path: Path, found: Found) -> None:
        """Change what is at `path` as overlayfs does for what is found in the upper directory."""
        there = self._find(path)
        is_copied_up = isinstance(found, Directory) and not found.is_opaque and isinstance(there, _Directory)
        if not is_copied_up:
            self._hide(path, there)
        if isinstance(found, Whiteout) or self._selection.refusal(Name(path)):
            return
        left = self._find(path)
        if isinstance(found, Directory) and isinstance(left, _Directory):
            return
        if left is not None:  # names that are not selected, and have no place below what is
            self._remove(path, left, is_forced=True)
        self.put(path, found)
        self.is_changed = True

    def leaves(self) -> Iterator[tuple[Path, Carried | Special]]:
        """Yield what an artifact has to carry by name, directories only where they are empty."""
        pending: list[tuple[Path, _Directory]] = [((), self._root)]
        while pending:
            above, directory = pending.pop()
            if directory.found and not directory.children and above:
                yield above, directory.found
            for component, node in directory.children.items():
                if isinstance(node, _Directory):
                    pending.append(((*above, component), node))
                elif not isinstance(node, Kept):
                    yield (*above, component), node
            for component, reason in _look_alikes(directory):
                yield (*above, component), Special(reason)

    def refusal(self, path: Path, node: Carried | Special) -> str:
        """Return why something cannot be carried, or nothing where it can."""
        if isinstance(node, Special):
            return node.reason
        if not isinstance(node, Link):
            return ""
        try:
            link_target(node.target, Name(path))
            return self._ambiguity(path, node.target)
        except UnsafeNameError as error:
            return str(error)

    def _ambiguity(self, path: Path, target: str) -> str:
        """See to it that `..` leads back over directories only: over a link, the kernel goes where no text tells."""
        text = ""
        for component in target.split("/"):
            if component == ".." and text.strip("./"):
                back = self._find(link_end(text, Name(path)))
                if not isinstance(back, _Directory):
                    shown = printable(target, 80)
                    return f'is a symbolic link to "{shown}", which leads back over what is no directory'
            text += f"{component}/"
        return ""

    def _find(self, path: Path) -> _Node | None:
        node: _Node | None = self._root
        for component in path:
            node = node.children.get(component) if isinstance(node, _Directory) else None
        return node

    def _hide(self, path: Path, node: _Node | None) -> None:
        """Take away what is at `path` with everything below, but for what is not selected."""
        if node is None:
            return
        parent = self._find(path[:-1])
        if self._remove(path, node) and isinstance(parent, _Directory):
            del parent.children[path[-1]]

    def _remove(self, path: Path, node: _Node, *, is_forced: bool = False) -> bool:
        """Note as lost what is selected at `path` and below, or all of it, and say whether nothing is left of it."""
        is_implied = False
        if isinstance(node, _Directory):
            below = node.children.items()
            gone = [name for name, child in below if self._remove((*path, name), child, is_forced=is_forced)]
            for name in gone:
                del node.children[name]
            if node.children:
                return False
            is_implied = node.found is None
        if not is_forced and not is_implied and self._selection.refusal(Name(path)):
            return False
        self.lost.add(path)
        self.is_changed = True
        return True


def _look_alikes(directory: _Directory) -> Iterator[tuple[str, str]]:
    """Yield names that look like another one of the directory (equal in NFC and not in bytes), and say so."""
    if all(map(str.isascii, directory.children)):
        return
    seen: dict[str, str] = {}
    for component in sorted(directory.children):
        first = seen.setdefault(unicodedata.normalize("NFC", component), component)
        if first != component:
            yield component, "looks the same as another name beside it"


def _shown(path: Path) -> str:
    text = "/".join(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return printable(text, _NAME_LIMIT)
