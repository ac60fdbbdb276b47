"""Pace: so many bytes a second for all, dealt between those who want them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from csi_oras.transfer.pace import Pace

_MIB = 1 << 20


class Asker:
    """Somebody who wants bytes over several connections."""

    def __init__(self) -> None:
        self.got = 0
        self._lock = threading.Lock()

    def take(self, pace: Pace, most: int = _MIB) -> int:
        count = pace.ask(self, most)
        with self._lock:
            self.got += count
        return count


def test_without_a_limit_everything_is_let_through_at_once() -> None:
    assert Pace(0).ask(Asker(), 1 << 40) == 1 << 40


def test_nobody_is_given_more_than_he_asks_for() -> None:
    assert Pace(64 * _MIB).ask(Asker(), 5) == 5


def test_all_together_get_the_rate() -> None:
    pace, askers, rate = Pace(32 * _MIB), [Asker() for _ in range(4)], 32 * _MIB
    until, began = threading.Event(), time.monotonic()

    def read(asker: Asker) -> None:
        while not until.is_set():
            asker.take(pace)
            if sum(each.got for each in askers) >= 2 * rate:
                until.set()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, askers * 2))
    speed = sum(asker.got for asker in askers) / (time.monotonic() - began)
    assert 0.5 * rate < speed < 1.3 * rate


def test_many_connections_get_no_more_than_one() -> None:
    pace, many, one = Pace(64 * _MIB), Asker(), Asker()
    until, joined = threading.Event(), threading.Event()
    before = 0

    def read_over_many(_number: int) -> None:
        while not until.is_set():
            many.take(pace)
            if many.got > 8 * _MIB:
                joined.set()

    def read_over_one() -> None:
        nonlocal before
        assert joined.wait(30)
        before = many.got
        while one.got < 32 * _MIB:
            one.take(pace)
        until.set()

    with ThreadPoolExecutor(33) as pool:
        calls = [pool.submit(read_over_many, number) for number in range(32)]
        pool.submit(read_over_one).result(60)
        for call in calls:
            call.result(30)
    # two at a time could come between two questions of one, on a machine that is busy
    assert (many.got - before) < 2 * one.got + 64 * _MIB // 32 * 33


def test_another_rate_counts_for_those_who_wait_already() -> None:
    pace = Pace(1)
    pace.ask(Asker(), 1 << 14)  # four and a half hours' worth
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(pace.ask, Asker(), _MIB) for _ in range(8)]
        pace.resize(0)
        for call in waiting:
            assert call.result(30) > 0


def test_who_is_gone_is_forgotten() -> None:
    pace = Pace(1 << 40)
    for _ in range(1000):
        pace.ask(Asker(), 1)
    assert len(pace._served) < 10
