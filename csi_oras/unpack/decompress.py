"""Decompression of hostile archives, as a stream: what comes out is bounded, and so is the memory that it takes.

gzip is isal's, zstd is zstandard's. Members and frames may follow one another (eStargz has one per file), zeros may
fill a gzip archive up; what else follows is refused, as Go refuses it, where gzip(1) passes over it with a warning.
A bomb costs no more than the limits say, whatever its shape: bytes that come out are counted before anybody sees
them, and so are packed bytes out of which nothing comes. Nothing here knows what an archive holds.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from typing import TYPE_CHECKING, BinaryIO

from isal import igzip, isal_zlib

from csi_oras.errors import HostileContentError, LimitExceededError
from csi_oras.oci.plan import Compression
from csi_oras.unpack import zstd

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
"""The most that is yielded at once."""
RATIO_FLOOR = 64 << 20
"""Bytes that may come out whatever the ratio: what is small may well be all zeros."""
MOST_PACKED_PER_CHUNK = 64 << 20
"""Packed bytes that one chunk may take; a gzip member for each byte takes 21 MiB."""
_GZIP_MAGIC = b"\x1f\x8b"
_PUSH_AGAIN = "push the artifact again"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """Bytes that may come out of one archive (0: no limit), and how many times its packed size, once 64 MiB did.

    Of several archives the ratio holds for all together: `before` came out of those read so far.
    """

    size: int
    ratio: int
    before: int = 0


def decompressed(
    source: BinaryIO, compression: Compression, packed_size: int, limits: OutputLimits, subject: str
) -> Iterator[bytes]:
    """Yield the bytes of an archive in chunks of at most 1 MiB; `packed_size` is that of all archives up to this one.

    Raises:
        HostileContentError: it is not compressed in that way, is cut short or corrupt, or packs nothing at length.
        LimitExceededError: more comes out than `limits` allow, or it takes a zstd window over 128 MiB.
        UnsupportedContentError: it needs a zstd dictionary.

    """
    packed = _Packed(source, subject)
    most = _most_bytes(packed_size, limits)
    total = 0
    for chunk in _READERS[compression](packed, subject):
        packed.since_chunk = 0
        total += len(chunk)
        if total > most:
            raise _too_large(total, packed_size, limits, subject)
        yield chunk


def _most_bytes(packed_size: int, limits: OutputLimits) -> float:
    by_size = limits.size or float("inf")
    by_ratio = max(limits.ratio * packed_size, RATIO_FLOOR) if limits.ratio else float("inf")
    return min(by_size, by_ratio - limits.before)


def _too_large(total: int, packed_size: int, limits: OutputLimits, subject: str) -> LimitExceededError:
    if limits.size and total > limits.size:
        cause = f"the archive holds more than the {limits.size:,} bytes that may come out of it"
        return LimitExceededError(subject, cause, "push less, or raise the limit in the node policy")
    what = "the archives up to here hold more than" if limits.before else "the archive holds more than"
    cause = f"{what} {limits.ratio} times {'their' if limits.before else 'its'} {packed_size:,} packed bytes"
    return LimitExceededError(subject, cause, "push it less compressed, or raise limits.unpackRatio in the node policy")


class _Packed(io.RawIOBase):
    """The packed bytes, counted; closing it leaves the source open."""

    def __init__(self, source: BinaryIO, subject: str) -> None:
        self._source = source
        self._subject = subject
        self.since_chunk = 0
        self.start = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill `buffer` as far as the source gives, which has to bring something out some day."""
        view = memoryview(buffer)
        if self.since_chunk > MOST_PACKED_PER_CHUNK:
            raise HostileContentError(self._subject, "the archive packs nothing at great length", _PUSH_AGAIN)
        content = self._source.read(len(view))
        view[: len(content)] = content
        self.since_chunk += len(content)
        self.start = self.start or content[:2]
        return len(content)


def _stored(packed: _Packed, _subject: str) -> Iterator[bytes]:
    while chunk := packed.read(CHUNK_BYTES):
        yield chunk


def _gunzipped(packed: _Packed, subject: str) -> Iterator[bytes]:
    reader = igzip.IGzipFile(fileobj=packed, mode="rb")  # type: ignore[no-untyped-call] # isal leaves it untyped
    try:
        while chunk := reader.read(CHUNK_BYTES):
            yield chunk
    except EOFError:  # isal says the same of less than a header that follows a whole member
        cause = "the gzip archive ends in the middle, or a few other bytes follow it"
        raise HostileContentError(subject, cause, _PUSH_AGAIN) from None
    except OverflowError:  # isal gives up after 512 KiB
        raise HostileContentError(subject, "the archive has a gzip header without an end", _PUSH_AGAIN) from None
    except BadGzipFile as error:
        raise _bad_gzip(error, packed.start, subject) from None
    except isal_zlib.error:  # type: ignore[misc] # isal declares it as an instance
        raise HostileContentError(subject, "the gzip archive is corrupt", _PUSH_AGAIN) from None
    if not packed.start:
        raise HostileContentError(subject, "is empty, so it is no gzip archive", _PUSH_AGAIN)


def _bad_gzip(error: BadGzipFile, start: bytes, subject: str) -> HostileContentError:
    if not str(error).startswith("Not a gzipped file"):
        return HostileContentError(subject, "the gzip archive is corrupt", _PUSH_AGAIN)
    if start != _GZIP_MAGIC:
        return HostileContentError(subject, "is no gzip archive", "push it with the media type of what it is")
    return HostileContentError(subject, "other bytes follow the gzip archive", _PUSH_AGAIN)


def _unzstd(packed: _Packed, subject: str) -> Iterator[bytes]:
    yield from zstd.decompressed(io.BufferedReader(packed, igzip.READ_BUFFER_SIZE), subject)


_READERS = {Compression.NONE: _stored, Compression.GZIP: _gunzipped, Compression.ZSTD: _unzstd}
