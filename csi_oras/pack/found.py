"""What a walk finds: a path, and what is there. Values only; nothing here has looked at a disk."""

from dataclasses import dataclass
from enum import StrEnum

Path = tuple[str, ...]
"""Components from the volume's root; they may hold what no name may until a walk says otherwise."""


class Origin(StrEnum):
    """Where something is: in the tree that the pod was given, or in the directory of what it wrote."""

    BASE = "base"
    UPPER = "upper"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file; inode, size in bytes and time of the last change in nanoseconds tell whether it stays so."""

    origin: Origin
    inode: int
    size: int
    modified: int
    is_executable: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link with the text that its maker gave it."""

    origin: Origin
    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; an opaque one hides what the base has in its place."""

    origin: Origin
    is_opaque: bool = False


@dataclass(frozen=True, slots=True)
class Whiteout:
    """What overlayfs puts where something of the base was removed."""


@dataclass(frozen=True, slots=True)
class Special:
    """What cannot be carried, and why: half a sentence, to be completed with its name."""

    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A directory of the base that nobody looked into, for the layer that brings it is reused as it is."""


Found = File | Link | Directory | Whiteout | Special | Kept
Change = tuple[Path, Found]
