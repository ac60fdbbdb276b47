"""What the driver says, one JSON object to a message, read with bounds."""

from dataclasses import dataclass
from typing import Any

from csi_oras.errors import HostileContentError
from csi_oras.oci import document as json
from csi_oras.oci.digest import Digest

LARGEST_MESSAGE = 64 << 10
_SUBJECT = "message of the driver"
_LARGEST_INODE = 2**64


@dataclass(frozen=True, slots=True)
class Shown:
    """Bytes that are local from now on, from `start` up to `end`, of the file with an inode."""

    number: int
    start: int
    end: int
    inode: int


@dataclass(frozen=True, slots=True)
class Came:
    """Bytes that were announced and are local from now on, of the file with an inode, whoever has it open."""

    blob: Digest
    start: int
    end: int
    inode: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Bytes that do not come, for want of space or otherwise."""

    number: int
    lacks_space: bool


@dataclass(frozen=True, slots=True)
class Coming:
    """Bytes that are not here yet, but progress is made: whoever waits is to have patience."""

    number: int


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A blob that is not what its digest says: nothing of it may be read any more."""

    blob: Digest


@dataclass(frozen=True, slots=True)
class Dropped:
    """A blob that is in another file by now: whatever was read of it is to be read again."""

    blob: Digest


Unasked = Came | Poisoned | Dropped
"""What the driver says when nobody waits for it."""
Message = Shown | Refused | Coming | Unasked


def parse(content: bytes) -> Message:
    """Read a message.

    Raises:
        UnacceptableError: it is none that we understand.
    """
    document = json.parse_object(content, _SUBJECT)
    if document.get("op") == "poison":
        return Poisoned(Digest.parse(document.get("blob")))
    if document.get("op") == "drop":
        return Dropped(Digest.parse(document.get("blob")))
    if document.get("op") == "shown":
        return Came(Digest.parse(document.get("blob")), *_span(document), _inode(document))
    number = json.integer(document, "id", _SUBJECT)
    if "error" in document:
        return Refused(number, json.text(document, "error", _SUBJECT) == "ENOSPC")
    if document.get("wait") is True:
        return Coming(number)
    return Shown(number, *_span(document), _inode(document))


def _span(document: dict[str, Any]) -> tuple[int, int]:
    start, end = json.integer(document, "start", _SUBJECT), json.integer(document, "end", _SUBJECT)
    if start >= end:
        raise HostileContentError(_SUBJECT, "shows no bytes")
    return start, end


def _inode(document: dict[str, Any]) -> int:
    """Return the number of a file, which is any of 64 bits, unlike a size."""
    inode = document.get("inode")
    if type(inode) is not int or not 0 < inode < _LARGEST_INODE:
        raise HostileContentError(_SUBJECT, '"inode" is not the number of a file')
    return inode
