"""What the names and link targets of members mean in the artifact that their archive is a part of."""

import re

from csi_oras.errors import printable
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import PlanArchive

_LONGEST_WAY = 1023
"""Bytes of a symbolic link's target on XFS, which takes fewer than any other file system of a node."""
_LEADING = re.compile(r"(?:\./)+")


def plain(text: str) -> str:
    """Drop what tar itself puts around a name: a leading `./`, and a slash at the end of a directory."""
    if (leading := _LEADING.match(text)) is not None:
        text = text[leading.end() :]
    if text == ".":
        return ""
    return text if text == "/" else text.removesuffix("/")


def member_name(archive: PlanArchive, text: str) -> Name | None:
    """Return the name that a member has in the artifact, or None for the root.

    Raises:
        UnsafeNameError: it is no safe name, or outside of where the archive's members belong.
    """
    if not (text := plain(text)):
        return None
    name = Name.parse(text, portable=not archive.is_image_layer)
    if archive.prefix and name != archive.prefix and name.below(archive.prefix) is None:
        raise UnsafeNameError(f'is outside of "{printable(str(archive.prefix), 80)}", which the layer is named for')
    return archive.directory.joined(name) if archive.directory else name


def hard_link_target(archive: PlanArchive, text: str) -> Name | None:
    """Return the name that a hard link means, or None for the root.

    Raises:
        UnsafeNameError: it is none that a member could have.
    """
    try:
        return member_name(archive, text)
    except UnsafeNameError as error:
        raise UnsafeNameError(f'is a hard link to "{printable(text, 80)}", which {error}') from None


def link_target(target: str, name: Name, root: tuple[str, ...], *, may_be_absolute: bool) -> str:
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
    way = "/".join([".."] * (len(here) - common) + there[common:]) or "."
    if len(way.encode()) > _LONGEST_WAY:
        raise UnsafeNameError(f"is a symbolic link to {shown}, a way of more than {_LONGEST_WAY} bytes")
    return way


def _is_safe(components: list[str]) -> bool:
    try:
        Name.parse("/".join(components), portable=False)
    except UnsafeNameError:
        return False
    return True
