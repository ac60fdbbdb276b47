"""Decompression: what gzip(1) and zstd(1) read comes out whole; no bomb, cut or mutation costs more than allowed."""

import gzip
import io
import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
    UnacceptableError,
    UnsupportedContentError,
)
from csi_oras.oci.plan import Compression
from csi_oras.unpack.decompress import CHUNK_BYTES, RATIO_FLOOR, OutputLimits, decompressed

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SUBJECT = "reg.example/t/x:v1, layer 0 (0123456789ab)"
NO_LIMITS = OutputLimits(size=0, ratio=0)
MIB = 1 << 20
TEXT = b"".join(b"line %d of what is to be packed\n" % number for number in range(100_000))
COMPRESSIONS = [Compression.GZIP, Compression.ZSTD]


def pack(content: bytes, compression: Compression) -> bytes:
    if compression is Compression.NONE:
        return content
    return gzip.compress(content) if compression is Compression.GZIP else zstandard.compress(content)


def unpack(packed: bytes, compression: Compression, limits: OutputLimits = NO_LIMITS) -> bytes:
    return b"".join(decompressed(io.BytesIO(packed), compression, len(packed), limits, SUBJECT))


class Stuttering(io.RawIOBase):
    """A source that gives less than it is asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, count: int = -1, /) -> bytes:
        given, self._content = self._content[: min(count, 777)], self._content[min(count, 777) :]
        return given


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
    return (size << 3 | kind << 1 | is_last).to_bytes(3, "little") + content


RAW, RUN, RESERVED = 0, 1, 3
END = block(RAW, 0, b"", is_last=True)
WINDOW_128_MIB = 17 << 3
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"note!"


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("content", [b"a", TEXT, bytes(3 * CHUNK_BYTES + 1)], ids=["byte", "text", "zeros"])
def test_decompressed_yields_what_was_packed_in_bounded_chunks(compression: Compression, content: bytes) -> None:
    packed = pack(content, compression)
    chunks = list(decompressed(io.BytesIO(packed), compression, len(packed), NO_LIMITS, SUBJECT))
    assert b"".join(chunks) == content
    assert 0 < min(map(len, chunks)) <= max(map(len, chunks)) <= CHUNK_BYTES


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_nothing_packed_yields_nothing(compression: Compression) -> None:
    assert unpack(pack(b"", compression), compression) == b""


def test_decompressed_of_empty_stored_archive_yields_nothing() -> None:
    assert unpack(b"", Compression.NONE) == b""


@pytest.mark.parametrize("compression", Compression)
def test_decompressed_with_short_reads_yields_all_and_leaves_source_open(compression: Compression) -> None:
    packed = pack(TEXT, compression)
    source = Stuttering(packed)
    assert b"".join(decompressed(source, compression, len(packed), NO_LIMITS, SUBJECT)) == TEXT  # type: ignore[arg-type]
    assert not source.closed


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_concatenated_parts_yields_all(compression: Compression) -> None:
    parts = [pack(TEXT, compression), pack(b"", compression), pack(b"middle", compression), pack(TEXT, compression)]
    assert unpack(b"".join(parts), compression) == TEXT + b"middle" + TEXT


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_a_part_for_each_file_yields_all(compression: Compression) -> None:
    files = [b"file %d " % number * 70 for number in range(30_000)]
    assert unpack(b"".join(pack(file, compression) for file in files), compression) == b"".join(files)


def test_decompressed_of_gzip_padded_with_zeros_yields_all() -> None:
    assert (
        unpack(gzip.compress(b"one") + bytes(700) + gzip.compress(b"two") + bytes(100_000), Compression.GZIP)
        == b"onetwo"
    )


def test_decompressed_of_gzip_with_every_header_field_yields_all() -> None:
    header = b"\x1f\x8b\x08\x1c\0\0\0\0\0\xff" + b"\x04\x00xtra" + b"name\0" + b"comment\0"
    assert unpack(header + gzip.compress(TEXT, mtime=0)[10:], Compression.GZIP) == TEXT


def test_decompressed_of_zstd_with_skippable_frames_yields_all() -> None:
    packed = SKIPPABLE + zstandard.compress(b"one") + SKIPPABLE * 3 + zstandard.compress(b"two") + SKIPPABLE
    assert unpack(packed, Compression.ZSTD) == b"onetwo"


def test_decompressed_of_zstd_of_every_kind_of_block_yields_all() -> None:
    packed = frame(block(RAW, 3, b"raw"), block(RUN, 5, b"r"), block(RAW, 0, b""), END)
    assert unpack(packed, Compression.ZSTD) == b"rawrrrrr"


@pytest.mark.parametrize(
    ("compression", "command"),
    [
        (Compression.GZIP, ["gzip", "-1"]),
        (Compression.GZIP, ["gzip", "-9"]),
        (Compression.ZSTD, ["zstd", "-1", "-q"]),
        (Compression.ZSTD, ["zstd", "-19", "-q", "--no-check"]),
        (Compression.ZSTD, ["zstd", "-q", "-T2", "-B65536"]),
        (Compression.ZSTD, ["zstd", "-q", "--long=27"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_decompressed_reads_what_the_tool_packs(compression: Compression, command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    packed = subprocess.run([*command, "-c"], input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    assert unpack(packed, compression) == TEXT
    assert unpack(packed * 2, compression) == TEXT * 2


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("packed", [b"", b"\x1f", bytes(40), b"PK\x03\x04" + bytes(40), TEXT], ids=range(5))
def test_decompressed_of_something_else_is_refused_as_none(compression: Compression, packed: bytes) -> None:
    with pytest.raises(HostileContentError, match=f"no {compression} archive|ends in the middle") as caught:
        unpack(packed, compression)
    assert caught.value.message.startswith(SUBJECT)


@pytest.mark.parametrize(("packed_as", "read_as"), [COMPRESSIONS, COMPRESSIONS[::-1]])
def test_decompressed_of_other_compression_is_refused(packed_as: Compression, read_as: Compression) -> None:
    with pytest.raises(HostileContentError, match=f"is no {read_as} archive; push it with the media type"):
        unpack(pack(TEXT, packed_as), read_as)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_archive_cut_anywhere_is_refused(compression: Compression) -> None:
    packed = pack(b"".join(b"line %d\n" % number for number in range(300)), compression)
    for length in range(len(packed)):
        with pytest.raises(HostileContentError):
            unpack(packed[:length], compression)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_cut_raw_block_is_refused(compression: Compression) -> None:
    noise = b"".join(zstandard.compress(b"%d" % number) for number in range(20_000))
    packed = pack(noise, compression)
    with pytest.raises(HostileContentError, match="ends in the middle"):
        unpack(packed[: len(packed) // 2], compression)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"garbage", b"garbage that is long enough", bytes(600) + b"\n", b"\x1f\x8b", b"\x28\xb5"],
    ids=range(6),
)
def test_decompressed_with_other_bytes_behind_is_refused(compression: Compression, garbage: bytes) -> None:
    with pytest.raises(HostileContentError, match=r"other bytes follow"):
        unpack(pack(b"small", compression) + garbage, compression)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_with_a_wrong_checksum_is_refused(compression: Compression) -> None:
    packed = bytearray(pack(TEXT, compression))
    if compression is Compression.ZSTD:
        packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(TEXT))
    packed[-6 if compression is Compression.GZIP else -2] ^= 1
    with pytest.raises(HostileContentError, match=f"the {compression} archive is corrupt"):
        unpack(bytes(packed), compression)


@pytest.mark.parametrize(
    "packed",
    [
        frame(block(RESERVED, 3, b"abc"), END),
        frame(block(RAW, (128 << 10) + 1, bytes((128 << 10) + 1)), END, window=WINDOW_128_MIB),
        frame(block(RUN, (128 << 10) + 1, b"a"), END, window=WINDOW_128_MIB),
        frame(block(RUN, 1025, b"a"), END),
        frame(END, descriptor=8),
        frame(block(RAW, 2, b"ab", is_last=True), descriptor=0x20, window=1),
    ],
    ids=["reserved block", "large block", "large run", "run beyond the window", "reserved bit", "wrong content size"],
)
def test_decompressed_of_malformed_zstd_is_refused(packed: bytes) -> None:
    with pytest.raises(HostileContentError, match="the zstd archive is corrupt"):
        unpack(packed, Compression.ZSTD)


def test_decompressed_of_zstd_with_the_largest_window_yields_all() -> None:
    packed = frame(block(RUN, 100_000, b"a"), END, window=WINDOW_128_MIB)
    assert unpack(packed, Compression.ZSTD) == b"a" * 100_000


@pytest.mark.parametrize(
    "packed",
    [
        frame(END, window=WINDOW_128_MIB + 1),
        frame(END, window=21 << 3),
        frame(END, window=31 << 3 | 7),
        frame(END, descriptor=0xE0, window=0xFF, more=b"\xff" * 7),
    ],
    ids=["128 MiB and an eighth", "2 GiB", "3.75 TiB", "single segment of 16 EiB"],
)
def test_decompressed_of_zstd_with_a_huge_window_is_refused(packed: bytes) -> None:
    with pytest.raises(LimitExceededError, match="window over the 134,217,728 bytes"):
        unpack(packed, Compression.ZSTD)


def test_decompressed_of_zstd_with_a_dictionary_is_unsupported() -> None:
    with pytest.raises(UnsupportedContentError, match="needs the dictionary 7"):
        unpack(frame(END, descriptor=1, more=b"\x07"), Compression.ZSTD)


def bomb(compression: Compression, mebibytes: int) -> bytes:
    """Return packed zeros, whose ratio is some 1,000 in gzip and 30,000 in zstd."""
    if compression is Compression.GZIP:
        return bytes(igzip.compress(bytes(MIB), 3)) * mebibytes
    eighth = block(RUN, 128 << 10, b"\0")
    return frame(*[eighth] * 8 * mebibytes, END, window=WINDOW_128_MIB)


def total(chunks: Iterable[bytes]) -> int:
    return sum(map(len, chunks))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_bomb_stops_at_the_ratio(compression: Compression) -> None:
    packed, limits = bomb(compression, 200), OutputLimits(size=0, ratio=200)
    seen: list[int] = []
    with pytest.raises(LimitExceededError, match=f"more than 200 times its {len(packed):,} packed bytes"):
        seen.extend(map(len, decompressed(io.BytesIO(packed), compression, len(packed), limits, SUBJECT)))
    assert sum(seen) == max(RATIO_FLOOR, 200 * len(packed) // MIB * MIB)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_of_zeros_below_the_floor_ignores_the_ratio(compression: Compression) -> None:
    packed, limits = bomb(compression, RATIO_FLOOR // MIB), OutputLimits(size=0, ratio=2)
    assert total(decompressed(io.BytesIO(packed), compression, len(packed), limits, SUBJECT)) == RATIO_FLOOR


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize(("size", "is_refused"), [(len(TEXT), False), (len(TEXT) - 1, True)])
def test_decompressed_up_to_the_size_and_not_beyond(compression: Compression, size: int, *, is_refused: bool) -> None:
    packed, limits = pack(TEXT, compression), OutputLimits(size=size, ratio=0)
    if not is_refused:
        assert unpack(packed, compression, limits) == TEXT
        return
    with pytest.raises(LimitExceededError, match=f"more than the {size:,} bytes"):
        unpack(packed, compression, limits)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_decompressed_bomb_takes_little_memory(compression: Compression) -> None:
    packed = bomb(compression, 300)
    tracemalloc.start()
    try:
        assert total(decompressed(io.BytesIO(packed), compression, len(packed), NO_LIMITS, SUBJECT)) == 300 * MIB
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()


NAMED_EMPTY_MEMBER = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 60_000 + b"\0" + gzip.compress(b"", mtime=0)[10:]


@pytest.mark.parametrize(
    ("compression", "source"),
    [
        (Compression.GZIP, lambda: Endless(NAMED_EMPTY_MEMBER)),
        (Compression.GZIP, lambda: Endless(b"\0", start=gzip.compress(b"a"))),
        (Compression.GZIP, lambda: Endless(b"\0\0\0\xff\xff", start=gzip.compress(b"")[:10])),
        (Compression.ZSTD, lambda: Endless(SKIPPABLE)),
        (Compression.ZSTD, lambda: Endless(b"\x50\x2a\x4d\x18\xff\xff\xff\xff")),
        (Compression.ZSTD, lambda: Endless(frame(END))),
        (Compression.ZSTD, lambda: Endless(block(RAW, 0, b""), start=frame())),
        (Compression.ZSTD, lambda: Endless(block(RAW, 1, b"a"), start=frame())),
        (Compression.ZSTD, lambda: Endless(frame(block(RUN, 9, b"a", is_last=True)))),
    ],
    ids=[
        "gzip members", "gzip padding", "gzip blocks", "zstd skippable frames", "zstd large skippable frames",
        "zstd frames", "zstd blocks", "zstd blocks of one byte", "zstd frames of nine bytes",
    ],
)  # fmt: skip
def test_decompressed_of_nothing_without_end_is_refused(compression: Compression, source: type[Endless]) -> None:
    with pytest.raises(HostileContentError, match="packs nothing at great length"):
        total(decompressed(source(), compression, 1 << 40, NO_LIMITS, SUBJECT))  # type: ignore[call-arg,arg-type]


def test_decompressed_of_gzip_header_without_end_is_refused_in_little_memory() -> None:
    tracemalloc.start()
    source = Endless(b"n", start=b"\x1f\x8b\x08\x08" + bytes(6))
    try:
        with pytest.raises(HostileContentError, match="a gzip header without an end"):
            total(decompressed(source, Compression.GZIP, 1 << 40, NO_LIMITS, SUBJECT))  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()


class BrokenDisk(io.RawIOBase):
    def read(self, _count: int = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("compression", Compression)
def test_decompressed_from_a_broken_disk_blames_nobody_else(compression: Compression) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        total(decompressed(BrokenDisk(), compression, 100, NO_LIMITS, SUBJECT))  # type: ignore[arg-type]


SMALL = {compression: pack(TEXT[:3000], compression) * 2 for compression in COMPRESSIONS}


@settings(max_examples=300, deadline=None)
@given(
    compression=st.sampled_from(COMPRESSIONS),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 10_000),
)
def test_decompressed_of_mutated_bytes_ends_or_is_refused(
    compression: Compression, edits: list[tuple[int, int]], cut: int
) -> None:
    packed = bytearray(SMALL[compression])
    for place, value in edits:
        packed[place % len(packed)] = value
    limits = OutputLimits(size=MIB, ratio=0)
    refusal = ""
    try:
        assert len(unpack(bytes(packed[: max(cut, 1)]), compression, limits)) <= MIB
    except UnacceptableError as error:  # either outcome is right
        refusal = error.message
    assert not refusal or refusal.startswith(SUBJECT)
    assert not CONTROLS.search(refusal)


@given(compression=st.sampled_from(COMPRESSIONS), parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
def test_decompressed_of_any_parts_yields_them(compression: Compression, parts: list[bytes]) -> None:
    assert unpack(b"".join(pack(part, compression) for part in parts), compression) == b"".join(parts)
