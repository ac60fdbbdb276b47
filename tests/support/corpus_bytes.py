"""Bytes by recipe: bombs and broken archives that nobody would want to keep in a repository.

    {"zeros": 5}   {"hex": "1f8b"}   {"tar": [members], "end": 0}
    {"times": 3, "of": [parts]}: with "numbered", the members of the tar in it get numbers
    {"gzip": [parts]}   {"zstd": [parts]}   {"zstd frame": [parts], "runs": 9}: and so many blocks of 128 KiB of zeros

Anything may have "cut": so many bytes of it, or all but so many; "flip": a byte at this place is inverted.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support import tars

_RUN = 128 << 10
_LAST, _RAW, _REPEATED = 1, 0, 1 << 1


def content(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the bytes of all parts."""
    return b"".join(map(_spoilt, parts))


def _spoilt(part: Mapping[str, Any]) -> bytes:
    made = _part(part)
    if "flip" in part:
        changed = bytearray(made)
        changed[part["flip"]] ^= 0xFF
        made = bytes(changed)
    return made[: part["cut"]] if "cut" in part else made


def _part(part: Mapping[str, Any]) -> bytes:
    if "zeros" in part:
        return bytes(part["zeros"])
    if "hex" in part:
        return bytes.fromhex(part["hex"])
    if "times" in part:
        return _repeated(part)
    if "tar" in part:
        return tars.tar(part["tar"], end=bytes(part.get("end", 2) * tars.BLOCK))
    return _compressed(part)


def _repeated(part: Mapping[str, Any]) -> bytes:
    if part.get("numbered"):
        return b"".join(_numbered(part["of"], number) for number in range(part["times"]))
    return content(part["of"]) * int(part["times"])


def _compressed(part: Mapping[str, Any]) -> bytes:
    if "gzip" in part:
        return tars.gzip(content(part["gzip"]))
    if "zstd" in part:
        return tars.zstd(content(part["zstd"]))
    return _frame(content(part["zstd frame"]), part["runs"])


def _numbered(parts: Sequence[Mapping[str, Any]], number: int) -> bytes:
    members = [{**member, "name": f"{member['name']}{number}"} for member in parts[0]["tar"]]
    return content([{**parts[0], "tar": members}])


def _frame(start: bytes, runs: int) -> bytes:
    """Return one zstd frame of `start` and runs of zeros, four bytes for each (RFC 8878, 3.1.1.2)."""
    header = b"\x28\xb5\x2f\xfd\x00\x38"  # a window of 128 KiB
    raw = _block(_RAW, len(start)) + start
    return header + raw + (_block(_REPEATED, _RUN) + b"\0") * runs + _block(_RAW | _LAST, 0)


def _block(kind: int, size: int) -> bytes:
    return struct.pack("<I", size << 3 | kind)[:3]
