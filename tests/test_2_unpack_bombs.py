"""Decompression: no bomb costs more bytes, time or memory than allowed, whatever its shape."""

import gzip
import io
import tracemalloc
from collections.abc import Iterable

import pytest
from isal import igzip

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
)
from csi_oras.oci.plan import Compression
from csi_oras.unpack.decompress import RATIO_FLOOR, OutputLimits, decompressed
from tests.support.packing import (
    COMPRESSIONS,
    END,
    MIB,
    NO_LIMITS,
    RAW,
    RUN,
    SKIPPABLE,
    SUBJECT,
    TEXT,
    WINDOW_128_MIB,
    Endless,
    block,
    frame,
    pack,
    unpack,
)


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
