"""Read-ahead: what is announced for which reads."""

import itertools
import random

from csi_oras.fuse.readahead import FIRST, LARGEST, ReadAhead

MIB = 1 << 20
SIZE = 1 << 30


def read_on(ahead: ReadAhead, start: int, end: int, *, inode: int = 2, step: int = MIB) -> list[tuple[int, int]]:
    """Read from `start` to `end` and return what was announced."""
    announced = []
    for place in range(start, end, step):
        seen = ahead.observe(inode, place, min(place + step, end), SIZE)
        if seen.end:
            announced.append((seen.start, seen.end))
    return announced


def test_first_read_of_a_file_announces_nothing() -> None:
    assert read_on(ReadAhead(), 0, MIB) == []


def test_reads_one_after_the_other_announce_windows_that_double_up_to_the_largest() -> None:
    announced = read_on(ReadAhead(), 0, 300 * MIB)
    assert announced[0] == (2 * MIB, 2 * MIB + FIRST)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(announced))
    lengths = [end - start for start, end in announced]
    assert lengths[:4] == sorted(lengths[:4])
    assert max(lengths) <= LARGEST
    assert announced[-1][1] - 300 * MIB >= LARGEST // 2


def test_announced_bytes_are_never_more_than_the_largest_window_ahead() -> None:
    ahead = ReadAhead()
    for place in range(0, 200 * MIB, MIB):
        assert ahead.observe(2, place, place + MIB, SIZE).end <= place + MIB + LARGEST


def test_nothing_is_announced_behind_the_end_of_a_file() -> None:
    ahead = ReadAhead()
    announced = [ahead.observe(2, place, place + MIB, 7 * MIB) for place in range(0, 7 * MIB, MIB)]
    assert max(seen.end for seen in announced) == 7 * MIB
    assert announced[-1].end == 0


def test_random_reads_announce_next_to_nothing() -> None:
    ahead, chance = ReadAhead(), random.Random(3)  # noqa: S311 (any order)
    reads = [chance.randrange(SIZE // 4096) * 4096 for _ in range(2000)]
    announced = [ahead.observe(2, place, place + 4096, SIZE) for place in reads]
    assert sum(seen.end - seen.start for seen in announced) < SIZE // 10


def test_several_streams_of_one_file_are_told_apart() -> None:
    ahead = ReadAhead()
    starts = [number * 100 * MIB for number in range(6)]
    announced: dict[int, list[int]] = {start: [] for start in starts}
    for step in range(8):
        for start in starts:
            place = start + step * MIB
            seen = ahead.observe(2, place, place + MIB, SIZE)
            announced[start].append(seen.end)
    assert all(start < max(ends) <= start + 8 * MIB + LARGEST for start, ends in announced.items())


def test_reads_that_overtake_each_other_are_still_one_stream() -> None:
    ahead = ReadAhead()
    announced = []
    for place in range(0, 32 * MIB, 2 * MIB):
        for start in (place + MIB, place):
            seen = ahead.observe(2, start, start + MIB, SIZE)
            announced.append(seen.end)
    assert max(announced) > 32 * MIB


def test_read_of_what_was_announced_is_expected_and_no_other() -> None:
    ahead = ReadAhead()
    assert not ahead.observe(2, 0, MIB, SIZE).was_expected
    assert not ahead.observe(2, MIB, 2 * MIB, SIZE).was_expected
    assert ahead.observe(2, 2 * MIB, 3 * MIB, SIZE).was_expected
    assert not ahead.observe(2, 500 * MIB, 501 * MIB, SIZE).was_expected
    assert not ahead.observe(3, 3 * MIB, 4 * MIB, SIZE).was_expected


def test_streams_of_many_files_and_many_of_one_are_forgotten_in_the_end() -> None:
    ahead = ReadAhead()
    for inode in range(5000):
        ahead.observe(inode, 0, MIB, SIZE)
    for place in range(0, SIZE, 10 * MIB):
        ahead.observe(2, place, place + MIB, SIZE)
    assert read_on(ahead, MIB, 2 * MIB, inode=4999)
    assert not read_on(ahead, MIB, 2 * MIB, inode=5)
    assert not read_on(ahead, MIB, 2 * MIB, inode=2)
