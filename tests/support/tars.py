"""Tar archives byte by byte, honest or not, from descriptions that a row of the corpus can hold.

Nothing of the standard library's tarfile is used: it would refuse, or repair, half of what these are for. A member is
a mapping:

    {"name": "a", "content": "text"}                     a file; "zeros": 5 for so many zero bytes
    {"name": "d", "type": "directory"}                   the types are those of TYPES, or any one character
    {"name": "l", "type": "symlink", "link": "a"}
    {"name": "a", "mode": "6777", "size": 99}            a size that lies; negative and large ones in base 256
    {"name": "a", "pax": {"path": "b"}}                  an extended header before it; "global": {...} for one of all
    {"name": "a", "longname": "...", "longlink": "..."}  GNU headers before it
    {"name": "a", "fields": {"checksum": "0000000"}}     the raw bytes (latin-1) of fields of FIELDS
    {"raw": "bytes in latin-1"}, {"blocks": 3}           no member at all: these bytes, so many blocks of zeros
    {"name": "f{n}", "repeat": 1000}                     so many of them
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import zstandard
from isal import igzip

BLOCK = 512
TYPES = {
    "file": "0", "hardlink": "1", "symlink": "2", "character": "3", "block": "4", "directory": "5", "fifo": "6",
    "contiguous": "7", "pax": "x", "global": "g", "longname": "L", "longlink": "K", "sparse": "S", "old file": "\0",
}  # fmt: skip
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "checksum": (148, 8), "type": (156, 1), "link": (157, 100), "magic": (257, 8), "owner": (265, 32),
    "group": (297, 32), "major": (329, 8), "minor": (337, 8), "prefix": (345, 155), "rest": (500, 12),
}  # fmt: skip
"""Where each field of a header begins, and its length (POSIX ustar)."""
_MOST_OCTAL = 8**11
_END = bytes(2 * BLOCK)

Description = Mapping[str, Any]


def tar(descriptions: Iterable[Description], *, end: bytes = _END) -> bytes:
    """Return the archive of all members described, and `end`."""
    return b"".join(map(entry, descriptions)) + end


def entry(description: Description) -> bytes:
    """Return one member with every header that stands before it, as often as it is wanted."""
    if "repeat" in description:
        one = {key: value for key, value in description.items() if key != "repeat"}
        return b"".join(entry(_numbered(one, number)) for number in range(description["repeat"]))
    if "raw" in description:
        return str(description["raw"]).encode("latin-1")
    if "blocks" in description:
        return bytes(BLOCK * int(description["blocks"]))
    content = content_of(description)
    return b"".join(_before(description)) + header(description, len(content)) + _padded(content)


def content_of(description: Description) -> bytes:
    """Return the bytes of a file; of one that names none, its name."""
    if "zeros" in description:
        return bytes(int(description["zeros"]))
    kind = description.get("type", "file")
    default = description.get("name", "") if kind in ("file", "contiguous", "old file") else ""
    return encoded(description.get("content", default))


def header(description: Description, size: int) -> bytes:
    """Return the header block of a member of `size` bytes."""
    kind = description.get("type", "file")
    claims: dict[str, bytes] = {
        "name": encoded(description.get("name", "")),
        "mode": b"%07o\0" % int(str(description.get("mode", "644")), 8),
        "uid": _number(description.get("uid", 0), 8),
        "gid": _number(description.get("gid", 0), 8),
        "size": _number(description.get("size", size), 12),
        "mtime": _number(description.get("mtime", 0), 12),
        "type": str(TYPES.get(kind, kind)).encode("latin-1"),
        "link": encoded(description.get("link", "")),
        "magic": b"ustar\x0000",
        "major": _number(description.get("major", 0), 8),
        "minor": _number(description.get("minor", 0), 8),
        "prefix": encoded(description.get("prefix", "")),
        **{field: str(raw).encode("latin-1") for field, raw in description.get("fields", {}).items()},
    }
    block = bytearray(BLOCK)
    for field, value in claims.items():
        start, length = FIELDS[field]
        block[start : start + min(length, len(value))] = value[:length]
    if "checksum" not in claims:
        block[148:156] = checksum(block)
    return bytes(block)


def checksum(block: bytes | bytearray) -> bytes:
    """Return what the checksum field of a header must hold."""
    return b"%06o\0 " % (sum(block[:148]) + 8 * ord(" ") + sum(block[156:]))


def pax(records: Mapping[str, Any]) -> bytes:
    """Return the records of an extended header; one whose key is "raw" is taken as it is."""
    return b"".join(encoded(value) if key == "raw" else _record(key, value) for key, value in records.items())


def encoded(text: str) -> bytes:
    """Return UTF-8; a lone surrogate U+DCxx stands for the byte xx, as in Python's file names, any other for itself."""
    return text.encode("utf-8", "surrogatepass" if re.search("[\ud800-\udc7f]", text) else "surrogateescape")


def gzip(content: bytes) -> bytes:
    """Compress as gzip does."""
    compressed: bytes = igzip.compress(content, mtime=0)
    return compressed


def zstd(content: bytes) -> bytes:
    """Compress as zstd does."""
    return zstandard.ZstdCompressor(level=3).compress(content)


def _before(description: Description) -> Iterable[bytes]:
    for key, kind, name in (("global", "global", "pax_global_header"), ("pax", "pax", "PaxHeaders/x")):
        if key in description:
            yield _header_member(kind, name, pax(description[key]))
    for key in ("longname", "longlink"):
        if key in description:
            yield _header_member(key, "././@LongLink", encoded(description[key]) + b"\0")


def _header_member(kind: str, name: str, content: bytes) -> bytes:
    return header({"type": kind, "name": name}, len(content)) + _padded(content)


def _record(key: str, value: Any) -> bytes:
    rest = b" " + key.encode() + b"=" + encoded(str(value)) + b"\n"
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def _number(value: int, length: int) -> bytes:
    if 0 <= value < min(_MOST_OCTAL, 8 ** (length - 1)):
        return b"%0*o\0" % (length - 1, value)
    if value >= 0:
        return b"\x80" + value.to_bytes(length - 1, "big")
    return value.to_bytes(length, "big", signed=True)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def _numbered(description: Description, number: int) -> dict[str, Any]:
    return {
        key: value.replace("{n}", str(number)) if isinstance(value, str) else value
        for key, value in description.items()
    }
