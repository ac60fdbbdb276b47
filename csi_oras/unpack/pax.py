"""PAX extended headers (POSIX.1-2017, pax): records of "length key=value", parsed strictly.

Only path, linkpath and size are ours; attributes, owners and times are dropped, and of a sparse file only the name is
read, to tell whether anybody wants it. The text comes from the archive: it is never matched by a regular expression,
and its length never grows a number.
"""

from dataclasses import dataclass

from csi_oras.unpack.header import MOST_BYTES, MalformedHeaderError

_LONGEST_LENGTH = 7
_LONGEST_SIZE = 19
_SPARSE = b"GNU.sparse."
_SPARSE_NAME = b"GNU.sparse.name"
_WANTED = (b"path", b"linkpath", b"size", _SPARSE_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the records say instead of the header's fields."""

    path: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    is_sparse: bool = False

    def __bool__(self) -> bool:
        return self != Overrides()


def parse(body: bytes) -> Overrides:
    """Read all records of an extended header.

    Raises:
        MalformedHeaderError: they are not what pax(1) would write.

    """
    found: dict[bytes, bytes] = {}
    is_sparse = False
    position = 0
    while position < len(body):
        end = position + _length(body, position)
        key, value = _record(body[position:end])
        position = end
        is_sparse |= key.startswith(_SPARSE)
        if key in found:
            raise MalformedHeaderError(f"has a PAX header with two values for {key.decode()}")
        if key in _WANTED:
            found[key] = value
    return Overrides(
        path=_name(found.get(_SPARSE_NAME)) or _name(found.get(b"path")),
        target=_name(found.get(b"linkpath")),
        size=_size(found.get(b"size")),
        is_sparse=is_sparse,
    )


def _length(body: bytes, position: int) -> int:
    """Return the length that the record at `position` says it has, which is within the body."""
    digits, space, _ = body[position : position + _LONGEST_LENGTH + 1].partition(b" ")
    if not space or not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(body) - position:
        raise MalformedHeaderError("has a PAX header with a record of wrong length")
    return int(digits)


def _record(record: bytes) -> tuple[bytes, bytes]:
    key, equals, value = record[record.index(b" ") + 1 : -1].partition(b"=")
    if not record.endswith(b"\n") or not equals or not key or b"\0" in key:
        raise MalformedHeaderError("has a PAX header with a malformed record")
    return key, value


def _name(value: bytes | None) -> bytes | None:
    if value and b"\0" in value:
        raise MalformedHeaderError("has a PAX header with a NUL in a name")
    return value or None  # POSIX: an empty value takes back what was said


def _size(value: bytes | None) -> int | None:
    if not value:
        return None
    if not value.isdigit() or len(value) > _LONGEST_SIZE or int(value) > MOST_BYTES:
        raise MalformedHeaderError("has a PAX header with an absurd size")
    return int(value)
