"""zstd frames, block by block (RFC 8878).

The library's readers either take an archive that is cut short for whole, or return all that comes out of what they
were given at once: 4 bytes can be 128 KiB. So the boundaries of blocks are followed here, and the library is given
at most eight blocks at a time, whose output is known to be bounded and whose end is known to have come.
"""

import sys
from collections.abc import Iterator
from typing import BinaryIO

import zstandard

from csi_oras.errors import HostileContentError, LimitExceededError, UnsupportedContentError

MOST_WINDOW = 128 << 20
"""What zstd(1) accepts without --long."""
_BLOCK_BYTES = 128 << 10
"""The most that a block may hold, packed or not (RFC 8878, 3.1.1.2.4)."""
_BLOCKS_AT_ONCE = 8
_MOST_STEPS = 65536
_BYTES_PER_STEP = 64
"""Blocks and frames that may pass in all: so many, and one more for so many bytes that come out."""
_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
_SKIPPABLE_NIBBLE = 5
_RUN_LENGTH, _RESERVED = 1, 3
_RESERVED_BIT = 8
_PUSH_AGAIN = "push the artifact again"


def decompressed(source: BinaryIO, subject: str) -> Iterator[bytes]:
    """Yield the bytes of concatenated frames in pieces of at most 1 MiB.

    Raises:
        HostileContentError: it is not zstd, is cut short or corrupt, or packs next to nothing at length.
        LimitExceededError: it takes a window over 128 MiB.
        UnsupportedContentError: it needs a dictionary.

    """
    reader = _Reader(source, subject)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW)
    if not (magic := source.read(4)):
        raise HostileContentError(subject, "is empty, so it is no zstd archive", _PUSH_AGAIN)
    if not _is_magic(magic):
        raise HostileContentError(subject, "is no zstd archive", "push it with the media type of what it is")
    while magic:
        if magic == _MAGIC:
            yield from _frame(reader, decompressor)
        elif _is_magic(magic):
            reader.skip(int.from_bytes(reader.take(4), "little"))
        else:
            raise HostileContentError(subject, "other bytes follow the zstd archive", _PUSH_AGAIN)
        reader.step()
        magic = source.read(4)


def _is_magic(magic: bytes) -> bool:
    """Tell whether a frame begins so, be it one to skip."""
    return magic == _MAGIC or (magic[1:] == _SKIPPABLE_MAGIC and magic[0] >> 4 == _SKIPPABLE_NIBBLE)


class _Reader:
    """The packed bytes, of which there must be as many as are taken."""

    def __init__(self, source: BinaryIO, subject: str) -> None:
        self._source = source
        self.subject = subject
        self._steps_left = _MOST_STEPS

    def take(self, count: int) -> bytes:
        """Return exactly `count` bytes, which are few."""
        content = self._source.read(count)
        if len(content) < count:
            raise HostileContentError(self.subject, "the zstd archive ends in the middle", _PUSH_AGAIN)
        return content

    def skip(self, count: int) -> None:
        """Read `count` bytes, which may be many, for nothing."""
        while count:
            count -= len(self.take(min(count, _BLOCK_BYTES)))

    def step(self, output: int = 0) -> None:
        """Count a block or frame, which have to bring something on average."""
        self._steps_left += output // _BYTES_PER_STEP - 1
        if self._steps_left < 0:
            raise HostileContentError(self.subject, "the archive packs nothing at great length", _PUSH_AGAIN)


def _frame(reader: _Reader, decompressor: zstandard.ZstdDecompressor) -> Iterator[bytes]:
    header, has_checksum = _frame_header(reader)
    stream = decompressor.decompressobj()
    batch = [header]
    is_last = False
    while not is_last:
        for _ in range(_BLOCKS_AT_ONCE):
            is_last = _take_block(reader, batch)
            if is_last:
                break
        if is_last and has_checksum:
            batch.append(reader.take(4))
        try:
            piece = stream.decompress(b"".join(batch))
        except zstandard.ZstdError:
            raise _corrupt(reader.subject) from None
        batch = []
        reader.step(len(piece))
        if piece:
            yield piece


def _take_block(reader: _Reader, batch: list[bytes]) -> bool:
    """Add one block to `batch`; tell whether it is the frame's last."""
    header = reader.take(3)
    fields = header[0] | header[1] << 8 | header[2] << 16
    kind, size = fields >> 1 & 3, fields >> 3
    if size > _BLOCK_BYTES or kind == _RESERVED:
        raise _corrupt(reader.subject)
    batch.append(header)
    batch.append(reader.take(1 if kind == _RUN_LENGTH else size))
    reader.step()
    return bool(fields & 1)


def _frame_header(reader: _Reader) -> tuple[bytes, bool]:
    """Read the header whose magic number is read already; tell whether a checksum follows the frame."""
    start = _MAGIC + reader.take(2)  # the shortest has two bytes more
    if start[4] & _RESERVED_BIT:
        raise _corrupt(reader.subject)
    header = start + reader.take(zstandard.frame_header_size(start) - len(start))
    try:
        parameters = zstandard.get_frame_parameters(header)
        window = parameters.window_size
    except zstandard.ZstdError:  # with the reserved bit unset, only for a window beyond its own limits
        window = sys.maxsize
    if window > MOST_WINDOW:
        cause = f"the zstd archive takes a window over the {MOST_WINDOW:,} bytes that are allowed"
        raise LimitExceededError(reader.subject, cause, "compress it without --long and --ultra")
    if parameters.dict_id:
        cause = f"the zstd archive needs the dictionary {parameters.dict_id}"
        raise UnsupportedContentError(reader.subject, cause, "compress it without a dictionary")
    return header, parameters.has_checksum


def _corrupt(subject: str) -> HostileContentError:
    return HostileContentError(subject, "the zstd archive is corrupt", _PUSH_AGAIN)
