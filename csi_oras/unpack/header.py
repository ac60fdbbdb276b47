"""Tar headers: one block of 512 bytes as ustar, GNU, star or v7 wrote it, parsed as strictly as Go's archive/tar does.

Only what a volume can show is read: name, mode, size, type and link target; owners, times and devices are not.
"""

from dataclasses import dataclass

BLOCK_BYTES = 512
MOST_BYTES = 1 << 62
"""No size may be larger: sums of two fit the 64 bits that others count with."""
_CHECKSUM = slice(148, 156)
_POSIX_MAGIC = b"ustar\0"
_GNU_MAGIC = b"ustar  \0"
_STAR_TRAILER = b"tar\0"
_BASE_256 = 0x80
_NEGATIVE = 0x40


class MalformedHeaderError(ValueError):
    """Why bytes are no header: half a sentence, to be completed with the archive and the member."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fields of a block, names as bytes without what follows their NUL."""

    name: bytes
    mode: int
    size: int
    kind: bytes
    target: bytes
    has_more_map: bool | None
    """Whether blocks of a sparse file's map follow, None where it is not for GNU's headers to say so."""


def parse(block: bytes) -> Header:
    """Read a block whose checksum is right.

    Raises:
        MalformedHeaderError: a number is not one, is negative or is absurd.

    """
    name = _text(block[:100])
    if block[257:263] == _POSIX_MAGIC:
        end = 476 if block[508:] == _STAR_TRAILER else 500  # star keeps times at the end of the prefix
        if prefix := _text(block[345:end]):
            name = prefix + b"/" + name
    return Header(
        name=name,
        mode=_number(block[100:108], "mode"),
        size=_number(block[124:136], "size"),
        kind=block[156:157],
        target=_text(block[157:257]),
        has_more_map=block[482] != 0 if block[257:265] == _GNU_MAGIC else None,
    )


def is_checksum_right(block: bytes) -> bool:
    """Tell whether the block's sum is the one that it carries, of bytes with or, as old tars had it, without sign."""
    try:
        expected = _number(block[_CHECKSUM], "checksum")
    except MalformedHeaderError:
        return False
    total = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
    if total == expected:
        return True
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[_CHECKSUM])  # noqa: PLR2004 # sign bit
    return total - 256 * high == expected


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, name: str) -> int:
    if field[0] & _BASE_256:
        if field[0] & _NEGATIVE:
            raise MalformedHeaderError(f"has a negative {name}")
        value = int.from_bytes(field, "big") - (_BASE_256 << 8 * (len(field) - 1))
    else:
        digits = _text(field.strip(b" \0")) or b"0"
        try:
            value = int(digits, 8) if digits.isdigit() else -1
        except ValueError:  # an 8 or a 9
            value = -1
        if value < 0:
            raise MalformedHeaderError(f"has a {name} that is no octal number")
    if value > MOST_BYTES:
        raise MalformedHeaderError(f"has an absurd {name}")
    return value
