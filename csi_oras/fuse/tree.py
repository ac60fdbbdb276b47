"""Trees: the inodes of a lazy volume, numbered by its plan alone.

A process that takes over from one that died must mean the same file by each number that the kernel knows. So a number
follows from the sorted names, and from nothing else: changing that is a new version of the plan.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
    StoreBrokenError,
    UnsupportedContentError,
    printable,
)
from csi_oras.oci import document as json
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import METADATA, Name, UnsafeNameError

ROOT = 1
"""The number of the root in every FUSE file system."""
LARGEST_PLAN = 64 << 20
MOST_FILES = 200_000
_SUBJECT = "plan of a lazy volume"
_VERSION = 1
_MODES = 0o555


@dataclass(frozen=True, slots=True)
class File:
    """A file: its number, its bits, the blob that holds its bytes, and how many those are."""

    inode: int
    mode: int
    blob: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory: its number, that of the one above it, and what is in it by name, sorted."""

    inode: int
    parent: int
    children: dict[bytes, int] = field(default_factory=dict)

    def list_from(self, place: int) -> Iterator[tuple[int, bytes, int]]:
        """Yield number of the next place, name and inode of what stands from a place on; places begin with 0."""
        special = ((b".", self.inode), (b"..", self.parent))
        for number, (name, inode) in enumerate(special[place:], place + 1):
            yield number, name, inode
        first = max(0, place - len(special))
        rest = islice(self.children.items(), first, None)
        for number, (name, inode) in enumerate(rest, first + len(special) + 1):
            yield number, name, inode


_Path = tuple[bytes, ...]
_Content = tuple[int, Digest, int]


class Tree:
    """The files and directories of one plan."""

    def __init__(self, files: Mapping[_Path, _Content], nanoseconds: int) -> None:
        """Number what is there: `files` has mode, blob and size by path, and no path goes through a file.

        All of it is of one time, in nanoseconds since the epoch.
        """
        self.nanoseconds = nanoseconds
        paths = {path[:depth] for path in files for depth in range(len(path))} | set(files) | {()}
        numbers = {path: number for number, path in enumerate(sorted(paths), ROOT)}
        self._nodes: list[File | Directory] = []
        directories: dict[_Path, Directory] = {}
        for path, number in numbers.items():
            if path in files:
                self._nodes.append(File(number, *files[path]))
            else:
                directories[path] = Directory(number, numbers[path[:-1]])
                self._nodes.append(directories[path])
            if path:  # what it is in sorts before it
                directories[path[:-1]].children[path[-1]] = number
        self.blobs: dict[Digest, list[int]] = {}
        """The numbers of the files that each blob is shown as."""
        for path, (_, blob, _) in files.items():
            self.blobs.setdefault(blob, []).append(numbers[path])
        self.size = sum(size for _, _, size in files.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, inode: int) -> File | Directory | None:
        """Return what has a number."""
        return self._nodes[inode - 1] if 0 < inode <= len(self._nodes) else None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan file; the files of the tree are of the time when it was written, as those of a pull.

        Raises:
            StoreBrokenError: it cannot be read.
            UnacceptableError: it is none.
        """
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                content, written = file.read(LARGEST_PLAN + 1), os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            raise StoreBrokenError(_SUBJECT, f"cannot be read ({error.strerror})") from error
        return cls.parse(content, written)

    @classmethod
    def parse(cls, content: bytes, nanoseconds: int = 0) -> Self:
        """Read the text of a plan that is of a time.

        Raises:
            UnacceptableError: it is none, too large, or names what no volume may show.
        """
        if len(content) > LARGEST_PLAN:
            raise LimitExceededError(_SUBJECT, f"is larger than {LARGEST_PLAN} bytes")
        document = json.parse_object(content, _SUBJECT)
        if json.integer(document, "version", _SUBJECT) != _VERSION:
            raise UnsupportedContentError(_SUBJECT, f"is not of version {_VERSION}", "driver and mounter differ")
        entries = json.objects(document, "entries", _SUBJECT)
        if len(entries) > MOST_FILES:
            raise LimitExceededError(_SUBJECT, f"names more than {MOST_FILES} files")
        return cls(_files(entries), nanoseconds)


def _files(entries: list[dict[str, Any]]) -> dict[_Path, _Content]:
    files: dict[_Path, _Content] = {}
    blobs: dict[str, tuple[Digest, int]] = {}
    for entry in entries:
        name, size, text = json.text(entry, "name", _SUBJECT), json.integer(entry, "size", _SUBJECT), entry.get("blob")
        blob, known = blobs.setdefault(str(text), (Digest.parse(text), size))
        path = _path(name)
        if path in files:
            raise _hostile(name, "is named twice")
        if size != known:
            raise _hostile(name, "shares a blob with a file of another size")
        files[path] = _mode(entry, name), blob, size
    for path in files:
        if any(path[:depth] in files for depth in range(1, len(path))):
            raise _hostile(b"/".join(path).decode(), "lies below a file")
    return files


def _path(text: str) -> _Path:
    """Return the components of a name; of the names that none from outside begins with, the artifact's identity."""
    metadata = f"{METADATA}/"
    try:
        name = Name.parse(text.removeprefix(metadata), portable=False)
    except UnsafeNameError as error:
        raise _hostile(text, str(error)) from None
    components = (METADATA, *name.components) if text.startswith(metadata) else name.components
    return tuple(component.encode() for component in components)


def _mode(entry: dict[str, Any], name: str) -> int:
    mode = json.integer(entry, "mode", _SUBJECT)
    if mode & ~_MODES:
        raise _hostile(name, "has a mode that no file of a volume has")
    return mode


def _hostile(name: str, cause: str) -> HostileContentError:
    return HostileContentError(_SUBJECT, f'"{printable(name, 80)}" {cause}')
