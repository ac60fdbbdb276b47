"""Packed bytes in tests: honest ones, zstd frames by hand, and sources without an end."""

import gzip
import io
import re

import zstandard

from csi_oras.oci.plan import Compression
from csi_oras.unpack.decompress import OutputLimits, decompressed

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SUBJECT = "reg.example/t/x:v1, layer 0 (0123456789ab)"
NO_LIMITS = OutputLimits(size=0, ratio=0)
MIB = 1 << 20
TEXT = b"".join(b"line %d of what is to be packed\n" % number for number in range(100_000))
COMPRESSIONS = [Compression.GZIP, Compression.ZSTD]


def pack(content: bytes, compression: Compression) -> bytes:
    """Compress as Python's libraries do."""
    if compression is Compression.NONE:
        return content
    return gzip.compress(content) if compression is Compression.GZIP else zstandard.compress(content)


def unpack(packed: bytes, compression: Compression, limits: OutputLimits = NO_LIMITS) -> bytes:
    """Return all that comes out."""
    return b"".join(decompressed(io.BytesIO(packed), compression, len(packed), limits, SUBJECT))


class Endless(io.RawIOBase):
    """A source that begins in one way, then repeats itself for ever."""

    def __init__(self, unit: bytes, start: bytes = b"") -> None:
        self._block = unit * (MIB // len(unit))
        self._next = start + self._block

    def read(self, count: int = -1, /) -> bytes:
        while len(self._next) < count:
            self._next += self._block
        given, self._next = self._next[:count], self._next[count:]
        return given


def frame(*blocks: bytes, descriptor: int = 0, window: int = 0, more: bytes = b"") -> bytes:
    """Return a zstd frame (RFC 8878, 3.1.1) of blocks that are whole already, without a checksum."""
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor, window]) + more + b"".join(blocks)


def block(kind: int, size: int, content: bytes, *, is_last: bool = False) -> bytes:
    """Return a block of a zstd frame (RFC 8878, 3.1.1.2), which holds `content` and says that it has `size`."""
    return (size << 3 | kind << 1 | is_last).to_bytes(3, "little") + content


RAW, RUN, RESERVED = 0, 1, 3
END = block(RAW, 0, b"", is_last=True)
WINDOW_128_MIB = 17 << 3
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"note!"
