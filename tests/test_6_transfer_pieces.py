"""Pieces of a blob: each is dealt once, first what somebody waits for, then what is wanted next, then the rest."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from csi_oras.transfer.pieces import Pieces


def _all(pieces: Pieces) -> list[tuple[int, int]]:
    return list(iter(pieces.take, None))


def test_rest_is_dealt_lowest_first() -> None:
    assert _all(Pieces([(0, 10), (20, 25)], size=4, parallel=8)) == [(0, 4), (4, 8), (8, 10), (20, 24), (24, 25)]


def test_what_is_claimed_is_not_dealt() -> None:
    pieces = Pieces([(0, 12)], size=4, parallel=8)
    assert pieces.take() == (0, 4)
    assert pieces.claim(2, 7) == [(4, 7)]
    assert pieces.claim(2, 7) == []
    assert _all(pieces) == [(7, 8), (8, 12)]


def test_what_is_wanted_next_is_dealt_before_the_rest_and_while_that_is_held_back() -> None:
    pieces = Pieces([(0, 12)], size=4, parallel=8)
    pieces.flow(on=False)
    pieces.advance(6, 10)
    assert [pieces.take(), pieces.take()] == [(6, 8), (8, 10)]
    pieces.flow(on=True)
    assert _all(pieces) == [(0, 4), (4, 6), (10, 12)]


def test_writer_that_is_held_back_goes_on_with_what_is_wanted_next() -> None:
    pieces = Pieces([(0, 12)], size=4, parallel=8)
    pieces.flow(on=False)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(pieces.take)
        pieces.advance(8, 12)
        assert taken.result(10) == (8, 12)


def test_stop_ends_those_who_are_held_back() -> None:
    pieces = Pieces([(0, 12)], size=4, parallel=8)
    pieces.flow(on=False)
    writers = [threading.Thread(target=pieces.take) for _ in range(3)]
    for writer in writers:
        writer.start()
    pieces.stop()
    for writer in writers:
        writer.join(10)
    assert not any(writer.is_alive() for writer in writers)
    assert pieces.stopped


def test_what_is_given_back_is_dealt_again() -> None:
    pieces = Pieces([(0, 8)], size=4, parallel=8)
    ((start, end),) = pieces.claim(1, 3)
    pieces.give_back(start, end)
    assert sorted(_all(pieces)) == [(0, 1), (1, 3), (3, 4), (4, 8)]


_RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(st.tuples(st.sampled_from(["claim", "advance", "take"]), _RANGES)), st.integers(1, 20))
def test_each_byte_is_dealt_exactly_once(steps: list[tuple[str, tuple[int, int]]], size: int) -> None:
    pieces = Pieces([(0, 20), (25, 60)], size=size, parallel=2)
    dealt: list[tuple[int, int]] = []
    for step, (start, end) in steps:
        if step == "claim":
            dealt += pieces.claim(start, end)
        elif step == "advance":
            pieces.advance(start, end)
        elif piece := pieces.take():
            dealt.append(piece)
    dealt += _all(pieces)
    assert sorted(byte for start, end in dealt for byte in range(start, end)) == [*range(20), *range(25, 60)]
