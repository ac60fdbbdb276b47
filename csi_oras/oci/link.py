"""Symbolic links: what a link means inside a volume, worked out in texts and never on a disk."""

from csi_oras.errors import printable
from csi_oras.oci.name import Name, UnsafeNameError

_LONGEST_WAY = 1023
"""Bytes of a symbolic link's target on XFS, which takes fewer than any other file system of a node."""


def link_target(target: str, name: Name, root: tuple[str, ...] = (), *, may_be_absolute: bool = False) -> str:
    """Return the shortest relative way from a link to its target, which must stay below `root`.

    Raises:
        UnsafeNameError: it does not, or is no path that a volume could have.
    """
    here, there = name.components[:-1], link_end(target, name, root, may_be_absolute=may_be_absolute)
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    way = "/".join((*[".."] * (len(here) - common), *there[common:])) or "."
    if len(way.encode()) > _LONGEST_WAY:
        shown = printable(target, 80)
        raise UnsafeNameError(f'is a symbolic link to "{shown}", a way of more than {_LONGEST_WAY} bytes')
    return way


def link_end(target: str, name: Name, root: tuple[str, ...] = (), *, may_be_absolute: bool = False) -> tuple[str, ...]:
    """Return the path of what a link means, from the volume's root and below `root`, if no link is on the way.

    Raises:
        UnsafeNameError: it is elsewhere, or no path that a volume could have.
    """
    shown = f'"{printable(target, 80)}"'
    if target.startswith("/") and not may_be_absolute:
        raise UnsafeNameError(f"is a symbolic link to {shown}, an absolute path")
    there = [] if target.startswith("/") else list(name.components[:-1])
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
    return tuple(there)


def _is_safe(components: list[str]) -> bool:
    try:
        Name.parse("/".join(components), portable=False)
    except UnsafeNameError:
        return False
    return True
