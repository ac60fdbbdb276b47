"""What a walk finds, without a disk."""

from csi_oras.pack.found import Change, Directory, File, Found, Link, Origin

BASE, UPPER = Origin.BASE, Origin.UPPER


def at(name: str, found: Found) -> Change:
    """What is found at a name."""
    return tuple(name.split("/")), found


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
