"""Merging: the base and what was written above it become the names that the volume showed last, as far as wanted.

The rules are overlayfs's (Linux, Documentation/filesystems/overlayfs.rst). What is selected is asked of the names that
come of it, whoever made them: what is not is neither pushed nor reused.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from csi_oras.errors import printable
from csi_oras.oci.link import link_end, link_target
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Change, Directory, File, Found, Kept, Link, Origin, Path, Special, Whiteout

Carried = File | Link | Directory
_NAME_LIMIT, _SPELLING_LIMIT = 200, 80
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncarriable:
    """What no artifact can carry: its name, safe to print, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The files, links and empty directories of a volume in the order of their names, without what is kept unseen.

    `lost` are paths at which the base has something that is in the volume no more, or not selected: it is lost with all
    below. `kept` are those of directories that nobody has looked into.
    """

    entries: dict[Name, Carried]
    uncarriable: tuple[Uncarriable, ...]
    lost: frozenset[Path]
    kept: frozenset[Path]
    is_changed: bool


@dataclass(slots=True)
class _Directory:
    found: Directory
    children: "dict[str, _Node]" = field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        return self.found.origin


_Node = File | Link | Special | Kept | _Directory


def merge(base: Iterable[Change], written: Iterable[Change], selection: Selection) -> Merged:
    """Apply what was written to the base, and take what is selected; both list a directory before its content."""
    tree = _Tree()
    for path, found in chain(base, written):
        tree.apply(path, found)
    tree.prune(selection)
    entries: dict[Name, Carried] = {}
    uncarriable: list[Uncarriable] = []
    is_changed = bool(tree.lost)
    for path, node in sorted(tree.leaves(), key=lambda leaf: leaf[0]):
        is_changed |= node.origin is Origin.UPPER
        if reason := tree.refusal(path, node):
            uncarriable.append(Uncarriable(name=_shown(path), reason=reason))
        elif not isinstance(node, Special):
            entries[Name(path)] = node
    return Merged(
        entries=entries,
        uncarriable=tuple(uncarriable),
        lost=frozenset(tree.lost),
        kept=frozenset(tree.kept),
        is_changed=is_changed,
    )


def described(found: Sequence[Uncarriable]) -> str:
    """Return a text that names what no artifact can carry, the first of it if it is much."""
    named = "; ".join(f'"{one.name}" {one.reason}' for one in found[:_MOST_NAMED])
    more = f"; and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
    return f"holds what no artifact can carry: {named}{more}"


def first_uncarriable(base: Iterable[Change], selection: Selection) -> Uncarriable | None:
    """Return something of a base that no artifact could carry on, or None: what a tree shows of an image, above all."""
    special = ((path, found) for path, found in base if isinstance(found, Special))
    wanted = (one for one in special if not selection.refusal(Name(one[0])))
    return next((Uncarriable(name=_shown(path), reason=found.reason) for path, found in wanted), None)


class _Tree:
    """The names of a volume in the making."""

    def __init__(self) -> None:
        self.lost: set[Path] = set()
        self.kept: set[Path] = set()
        self._root = _Directory(Directory(Origin.BASE))

    def apply(self, path: Path, found: Found) -> None:
        """Change what is at `path` as overlayfs does for what is found there."""
        above = self._find(path[:-1])
        if not isinstance(above, _Directory):
            raise RuntimeError("something was found below what is no directory")  # noqa: TRY004 (a bug, not a type)
        there = above.children.get(path[-1])
        if isinstance(found, Directory) and not found.is_opaque and isinstance(there, _Directory):
            return
        if there is not None:
            self.lost.add(path)
            del above.children[path[-1]]
        if isinstance(found, Kept):
            self.kept.add(path)
        if not isinstance(found, Whiteout):
            above.children[path[-1]] = _Directory(found) if isinstance(found, Directory) else found

    def prune(self, selection: Selection) -> None:
        """Take away what is not selected; a directory stays for what is left in it."""
        self._root.children = self._left((), self._root, selection)

    def _left(self, above: Path, directory: _Directory, selection: Selection) -> "dict[str, _Node]":
        left: dict[str, _Node] = {}
        for component, node in directory.children.items():
            path = (*above, component)
            if isinstance(node, _Directory):
                node.children = self._left(path, node, selection)
            is_above = isinstance(node, _Directory) and bool(node.children)
            if isinstance(node, Kept) or is_above or not selection.refusal(Name(path)):
                left[component] = node
            elif node.origin is Origin.BASE:
                self.lost.add(path)
        return left

    def leaves(self) -> Iterator[tuple[Path, Carried | Special]]:
        """Yield what an artifact has to carry by name, directories only where they are empty."""
        pending: list[tuple[Path, _Directory]] = [((), self._root)]
        while pending:
            above, directory = pending.pop()
            if not directory.children and above:
                yield above, directory.found
            for component, node in directory.children.items():
                if isinstance(node, _Directory):
                    pending.append(((*above, component), node))
                elif not isinstance(node, Kept):
                    yield (*above, component), node
            for component, reason in _look_alikes(directory):
                yield (*above, component), Special(Origin.UPPER, reason)

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


def _look_alikes(directory: _Directory) -> Iterator[tuple[str, str]]:
    """Yield names that look like another one of the directory (equal in NFC and not in bytes), and say so."""
    if all(map(str.isascii, directory.children)):
        return
    seen: dict[str, str] = {}
    for component in sorted(directory.children):
        first = seen.setdefault(unicodedata.normalize("NFC", component), component)
        if first != component:
            one, other = (name.encode("unicode_escape").decode()[:_SPELLING_LIMIT] for name in (first, component))
            yield component, f'looks the same as another name beside it ("{one}" and "{other}")'


def _shown(path: Path) -> str:
    text = "/".join(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return printable(text, _NAME_LIMIT)
