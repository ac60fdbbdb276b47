"""Decompression: what gzip(1) and zstd(1) read comes out whole; what is cut, corrupt or something else is refused."""

import gzip
import io
import shutil
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_oras.errors import (
    HostileContentError,
    UnacceptableError,
    UnsupportedContentError,
)
from csi_oras.oci.plan import Compression
from csi_oras.unpack.decompress import CHUNK_BYTES, OutputLimits, decompressed
from tests.support.packing import (
    COMPRESSIONS,
    CONTROLS,
    END,
    MIB,
    NO_LIMITS,
    RAW,
    RESERVED,
    RUN,
    SKIPPABLE,
    SUBJECT,
    TEXT,
    WINDOW_128_MIB,
    block,
    frame,
    pack,
    unpack,
)


class Stuttering(io.RawIOBase):
    """A source that gives less than it is asked for."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, count: int = -1, /) -> bytes:
        given, self._content = self._content[: min(count, 777)], self._content[min(count, 777) :]
        return given


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


def test_decompressed_of_zstd_with_a_dictionary_is_unsupported() -> None:
    with pytest.raises(UnsupportedContentError, match="needs the dictionary 7"):
        unpack(frame(END, descriptor=1, more=b"\x07"), Compression.ZSTD)


class BrokenDisk(io.RawIOBase):
    def read(self, _count: int = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("compression", Compression)
def test_decompressed_from_a_broken_disk_blames_nobody_else(compression: Compression) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        list(decompressed(BrokenDisk(), compression, 100, NO_LIMITS, SUBJECT))  # type: ignore[arg-type]


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
