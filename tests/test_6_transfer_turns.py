"""Turns: slots for each registry, dealt between those who wait."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial

import pytest

from csi_oras.transfer.turns import LATECOMERS, REGISTRIES, Turns
from tests.support.pods import wait_for


class Works:
    """Pieces of work that end when they are told to, and say in which order they began and how many ran at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._running: set[str] = set()
        self._most: dict[str, int] = {}
        self._changed = threading.Condition()
        self._released: set[str] = set()

    def run(self, registry: str, name: str) -> str:
        with self._changed:
            self.begun.append(name)
            self._running.add(name)
            self._most[registry] = max(self._most.get(registry, 0), self.running(registry))
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: registry in self._released or name in self._released, 30)
            self._running.discard(name)
        return name

    def running(self, registry: str) -> int:
        return sum(name.startswith(registry) for name in self._running)

    def most(self, registry: str) -> int:
        """How many of a registry ran at once."""
        return self._most.get(registry, 0)

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, 30)

    def release(self, *names: str) -> None:
        with self._changed:
            self._released.update(names)
            self._changed.notify_all()


@pytest.fixture
def works() -> Works:
    return Works()


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns("test", 2)
    yield turns
    turns.close()


def begin(turns: Turns, works: Works, registry: str, who: str, count: int) -> list[Future[str]]:
    names = [f"{registry}/{who}/{number}" for number in range(count)]
    return [turns.submit(registry, who, partial(works.run, registry, name)) for name in names]


def test_registry_has_its_share_of_slots_and_no_more(turns: Turns, works: Works) -> None:
    asked = begin(turns, works, "a", "pull", 10)
    works.wait_for(2)
    works.release("a")
    assert [future.result(30) for future in asked] == [f"a/pull/{number}" for number in range(10)]
    assert works.most("a") == 2


def test_registry_that_never_ends_holds_up_no_other(turns: Turns, works: Works) -> None:
    stuck = begin(turns, works, "dead", "pull", 10)
    works.wait_for(2)
    works.release("good")
    wait(begin(turns, works, "good", "pull", 10), 30, "ALL_COMPLETED")
    assert works.begun[2:] == [f"good/pull/{number}" for number in range(10)]
    works.release("dead")
    assert not wait(stuck, 30).not_done


def test_registries_together_have_a_few_times_the_slots_of_one_and_those_that_come_late_one_each(
    turns: Turns, works: Works
) -> None:
    registries = [f"r{number}." for number in range(REGISTRIES + LATECOMERS + 1)]
    asked = [future for registry in registries for future in begin(turns, works, registry, "pull", 3)]
    works.wait_for(2 * REGISTRIES + LATECOMERS)
    assert works.running("r") == 2 * REGISTRIES + LATECOMERS
    assert works.running(registries[-2]) == 1
    assert works.running(registries[-1]) == 0
    works.release(*registries)
    assert not wait(asked, 30).not_done


def test_one_piece_of_work_does_not_wait_for_five_hundred_of_somebody_else(turns: Turns, works: Works) -> None:
    many = begin(turns, works, "a", "many", 500)
    one = begin(turns, works, "a", "one", 1)
    works.wait_for(2)
    works.release("a/many/0", "a/many/1")
    works.wait_for(4)
    assert sorted(works.begun[2:]) == ["a/many/2", "a/one/0"]
    works.release("a")
    assert not wait([*many, *one], 30).not_done


def test_slots_go_round_between_those_who_wait(works: Works) -> None:
    turns = Turns("test", 1)
    asked = [future for who in "xyz" for future in begin(turns, works, "a", who, 3)]
    works.wait_for(1)
    works.release("a")
    assert not wait(asked, 30).not_done
    assert "".join(name.split("/")[1] for name in works.begun) == "xxyzxyzyz"
    turns.close()


def test_more_slots_are_used_at_once_and_fewer_when_work_ends(turns: Turns, works: Works) -> None:
    asked = begin(turns, works, "a", "pull", 10)
    works.wait_for(2)
    turns.resize(4)
    works.wait_for(4)
    turns.resize(1)
    works.release(*works.begun[:3])
    works.release("a")
    assert not wait(asked, 30).not_done
    assert works.most("a") == 4


def test_work_that_fails_gives_its_slot_back(works: Works) -> None:
    turns = Turns("test", 1)

    def fail() -> str:
        raise ValueError("no")

    failed, after = turns.submit("a", "pull", fail), begin(turns, works, "a", "pull", 1)
    works.release("a")
    with pytest.raises(ValueError, match="no"):
        failed.result(30)
    assert after[0].result(30) == "a/pull/0"
    turns.close()


def test_cancelled_work_is_never_begun(turns: Turns, works: Works) -> None:
    asked = begin(turns, works, "a", "pull", 4)
    works.wait_for(2)
    assert asked[2].cancel()
    works.release("a")
    assert asked[3].result(30)
    assert "a/pull/2" not in works.begun


def test_close_cancels_what_waits(works: Works) -> None:
    turns = Turns("test", 1)
    asked = begin(turns, works, "a", "pull", 3)
    works.wait_for(1)
    turns.close()
    works.release("a")
    assert asked[0].result(30)
    assert [future.cancelled() for future in asked] == [False, True, True]
    with pytest.raises(RuntimeError):
        begin(turns, works, "a", "pull", 1)


def test_threads_are_gone_when_there_is_no_work(works: Works) -> None:
    turns = Turns("gone", 8)
    works.release("a")
    assert not wait(begin(turns, works, "a", "pull", 100), 30).not_done
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "gone"])
