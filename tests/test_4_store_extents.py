from hypothesis import given
from hypothesis import strategies as st

from csi_oras.store.extents import Extents

_SIZE = 40
_spans = st.lists(st.tuples(st.integers(0, _SIZE), st.integers(0, _SIZE)), max_size=30)


@given(_spans)
def test_extents_of_any_writes_are_the_set_of_their_bytes(spans: list[tuple[int, int]]) -> None:
    extents, expected = Extents(), set[int]()
    for start, end in spans:
        extents.add(start, end)
        expected |= set(range(start, end))
    assert {byte for start, end in extents.intervals for byte in range(start, end)} == expected
    assert extents.covered == len(expected)
    missing = {byte for start, end in extents.missing(_SIZE) for byte in range(start, end)}
    assert missing == set(range(_SIZE)) - expected
    assert extents.frontier == next(byte for byte in range(_SIZE + 1) if byte not in expected)


@given(_spans)
def test_extents_stay_sorted_disjoint_and_never_touch(spans: list[tuple[int, int]]) -> None:
    extents = Extents()
    for start, end in spans:
        extents.add(start, end)
    edges = [edge for interval in extents.intervals for edge in interval]
    assert edges == sorted(set(edges))


@given(_spans)
def test_gaps_are_never_empty_and_end_at_the_size(spans: list[tuple[int, int]]) -> None:
    extents = Extents()
    for start, end in spans:
        extents.add(start, end)
    for size in (0, 1, _SIZE // 2, _SIZE):
        assert all(0 <= start < end <= size for start, end in extents.missing(size))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(0, 50))))
def test_what_is_counted_out_is_missing_again(steps: list[tuple[bool, int, int]]) -> None:
    extents, expected = Extents(), set[int]()
    for adds, start, end in steps:
        if adds:
            extents.add(start, end)
            expected |= set(range(start, end))
        else:
            extents.remove(start, end)
            expected -= set(range(start, end))
    assert {byte for start, end in extents.intervals for byte in range(start, end)} == expected
    assert extents.intervals == sorted(extents.intervals)
    for position in range(51):
        start, end = extents.around(position)
        assert extents.covers(position, position + 1) == (position in expected) == (start < end)
