"""Background pulls: they leave slots and bytes to all others, and are hurried when a pod wants what they pull."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from csi_oras.oci.descriptor import Descriptor
from csi_oras.transfer.pace import Pace
from csi_oras.transfer.turns import Turns
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry
from tests.support.pods import wait_for
from tests.support.pulling import Counted, Pulling

pytest_plugins = ["tests.support.fake_fixtures"]

_MIB = 1 << 20
_BLOBS, _RANGES = 2, 3
_SLOTS = _BLOBS * _RANGES
_POD = ("volume-1", "/target-1")


@pytest.fixture
def pulling(tmp_path: Path) -> Iterator[Pulling]:
    running = Pulling(tmp_path, f"rangeBytes: 1Mi, parallelBlobs: {_BLOBS}, parallelRanges: {_RANGES}")
    yield running
    running.close()


@pytest.fixture
def counted(fake: FakeRegistry) -> Iterator[Counted]:
    """What every request for a blob waits for."""
    counted = Counted()
    fake.bend("/blobs/", counted)
    yield counted
    counted.release()


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns("test", 4)
    yield turns
    turns.close()


def layers(count: int, size: int = 1000) -> list[Layer]:
    return [Layer(content=os.urandom(size), title=f"f{number}") for number in range(count)]


def digest(layer: Layer) -> str:
    return str(Descriptor.of(layer.content, "x").digest)


@pytest.mark.parametrize(("size", "each"), [(1000, 1), (5 * _MIB, _RANGES)], ids=["small", "ranged"])
def test_background_pull_takes_half_of_the_slots_and_leaves_the_others(
    pulling: Pulling, fake: FakeRegistry, counted: Counted, size: int, each: int
) -> None:
    background = pulling.start(fake.artifact("background", layers(8, size)), background=True)
    counted.wait_for(_SLOTS // 2)
    pod = pulling.start(fake.artifact("pod", layers(1, size)), _POD)
    wait_for(lambda: fake.count("/pod/blobs/") == each)
    assert fake.count("/background/blobs/") == _SLOTS // 2
    counted.release()
    assert background.future.result(60).files == 8
    assert pod.future.result(60).files == 1


def test_pull_of_a_pod_gets_the_slots_that_background_pulls_leave_and_all_that_are_free_before_them(
    pulling: Pulling, fake: FakeRegistry, counted: Counted
) -> None:
    pod = pulling.start(fake.artifact("pod", layers(30)), _POD)
    counted.wait_for(_SLOTS)
    background = pulling.start(fake.artifact("background", layers(30)), background=True)
    wait_for(lambda: background.progress.total > 0)
    while fake.count("/pod/blobs/") < 30:
        asked = fake.count("/blobs/")
        counted.release(1)
        wait_for(lambda: fake.count("/blobs/") > asked)  # noqa: B023 (it is called in this round)
        assert fake.count("/background/blobs/") == 0
    counted.release()
    assert pod.future.result(60).files == background.future.result(60).files == 30


def test_background_pull_that_a_pod_joins_is_hurried_at_once(
    pulling: Pulling, fake: FakeRegistry, counted: Counted
) -> None:
    reference = fake.artifact("r", layers(30))
    job = pulling.start(reference, background=True)
    counted.wait_for(_SLOTS // 2)
    assert pulling.start(reference, _POD) is job
    counted.wait_for(_SLOTS)  # while nothing has ended
    counted.release()
    assert job.future.result(60).files == 30
    assert fake.count("/blobs/") == 30


def test_blob_that_waits_in_the_background_is_hurried_by_another_pull_that_wants_it(
    pulling: Pulling, fake: FakeRegistry, counted: Counted
) -> None:
    many = layers(30)
    background = pulling.start(fake.artifact("r", many, tag="many"), background=True)
    counted.wait_for(_SLOTS // 2)
    wait_for(lambda: background.progress.total > 0)
    pod = pulling.start(fake.artifact("r", many[-1:], tag="one"), _POD)
    wait_for(lambda: fake.count(f"/blobs/{digest(many[-1])}") == 1)
    assert fake.count("/blobs/") == _SLOTS // 2 + 1
    counted.release()
    assert pod.future.result(60).files == 1
    assert background.future.result(60).files == 30
    assert fake.count("/blobs/") == 30


def test_pull_that_waits_for_its_turn_in_the_background_is_begun_when_a_pod_wants_it(
    pulling: Pulling, fake: FakeRegistry
) -> None:
    manifests = Counted()
    fake.bend("/manifests/", manifests)
    references = [fake.artifact("r", layers(1), tag=f"v{number}") for number in range(6)]
    jobs = [pulling.start(reference, background=True) for reference in references]
    manifests.wait_for(4)  # half of the eight that this one has for pulls
    assert pulling.start(references[-1], _POD) is jobs[-1]
    wait_for(lambda: fake.count("/manifests/v5") == 1)
    assert fake.count("/manifests/v4") == 0
    manifests.release()
    for job in jobs:
        job.future.result(60)


# -- turns, one by one


def test_turns_of_background_work_come_last_and_never_take_the_last_slot(turns: Turns) -> None:
    release, begun = threading.Event(), []

    def work(name: str) -> None:
        begun.append(name)
        assert release.wait(30)

    for number in range(4):
        turns.submit("r", "idle", partial(work, f"idle {number}"), lambda: True)
    wait_for(lambda: len(begun) == 2)
    futures = [turns.submit("r", "pod", partial(work, f"pod {number}")) for number in range(4)]
    wait_for(lambda: len(begun) == 4)
    assert sorted(begun) == ["idle 0", "idle 1", "pod 0", "pod 1"]
    release.set()
    for future in futures:
        future.result(30)
    wait_for(lambda: len(begun) == 8)
    assert sorted(begun[4:6]) == ["pod 2", "pod 3"]


def test_registry_with_one_slot_has_it_for_background_work_too() -> None:
    turns = Turns("test", 1)
    assert turns.submit("r", "idle", lambda: "done", lambda: True).result(30) == "done"
    turns.close()


# -- bytes


class Reader:
    """Somebody who wants bytes over several connections, until he is told that it is enough."""

    def __init__(self, pace: Pace) -> None:
        self.got = 0
        self.is_background = False
        self._pace = pace
        self._lock = threading.Lock()

    def read(self, enough: threading.Event) -> None:
        while not enough.is_set():
            count = self._pace.ask(self, _MIB, lambda: self.is_background)
            with self._lock:
                self.got += count


def test_bytes_in_the_background_come_after_all_others_and_no_more_once_a_pod_wants_them() -> None:
    pace, enough = Pace(64 * _MIB), threading.Event()
    pod, background = Reader(pace), Reader(pace)
    background.is_background = True
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(pod.read, enough) for _ in range(8)]
        wait_for(lambda: pod.got > 0)
        calls += [pool.submit(background.read, enough) for _ in range(8)]
        wait_for(lambda: pod.got > 32 * _MIB)
        before = background.got
        background.is_background = False
        wait_for(lambda: background.got > before + 16 * _MIB)
        enough.set()
        for call in calls:
            call.result(30)
    assert before < 4 * _MIB


def test_bytes_in_the_background_are_let_through_where_nobody_else_wants_any() -> None:
    pace, idle = Pace(64 * _MIB), Reader(Pace())
    assert sum(pace.ask(idle, _MIB, lambda: True) for _ in range(8)) == 8 * _MIB
