"""What the names and hard links of members mean in the artifact that their archive is a part of."""

import re

from csi_oras.errors import printable
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import PlanArchive

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
