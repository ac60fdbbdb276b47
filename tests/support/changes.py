"""What a walk finds, without a disk."""

from collections.abc import Iterable, Iterator

from csi_oras.pack.found import Change, Directory, File, Found, Link, Origin, Path

BASE, UPPER = Origin.BASE, Origin.UPPER


def at(name: str, found: Found) -> Change:
    """What is found at a name."""
    return tuple(name.split("/")), found


def listed(changes: Iterable[Change], origin: Origin) -> Iterator[Change]:
    """List directories before what is in them, as a walk does."""
    seen: set[Path] = set()
    for path, found in changes:
        for depth in range(1, len(path)):
            if path[:depth] not in seen:
                seen.add(path[:depth])
                yield path[:depth], Directory(origin)
        seen.add(path)
        yield path, found


def a_file(origin: Origin, size: int = 1, *, executable: bool = False) -> File:
    """A file."""
    return File(origin, inode=1, size=size, modified=0, is_executable=executable)


def a_link(origin: Origin, target: str) -> Link:
    """A symbolic link."""
    return Link(origin, target)


def a_directory(origin: Origin) -> Directory:
    """A directory that may have been copied up."""
    return Directory(origin)


def opaque() -> Directory:
    """A directory that was made where the base has something."""
    return Directory(UPPER, is_opaque=True)
