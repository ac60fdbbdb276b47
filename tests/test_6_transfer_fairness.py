"""Limits and fairness, counted at the registries: slots for each, turns between pulls, bytes per second for all."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.artifacts import Layer
from tests.support.calls import publish_request
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.pods import Pods, wait_for
from tests.support.pulling import Counted

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20
_BLOBS, _RANGES = 2, 3


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    """A driver with few slots."""
    policy = short_path / "policy.yaml"
    policy.write_text(f"pulls: {{rangeBytes: 1Mi, parallelBlobs: {_BLOBS}, parallelRanges: {_RANGES}}}\n")
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


@pytest.fixture
def pods(driver: Driver) -> Iterator[Pods]:
    with ThreadPoolExecutor(20) as pool:
        running = Pods(driver, pool)
        yield running
        running.end()


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


def layers(count: int, size: int) -> list[Layer]:
    return [Layer(content=os.urandom(size), title=f"f{number}") for number in range(count)]


def more_than(fake: FakeRegistry, asked: int) -> bool:
    return fake.count("/blobs/") > asked


def threads(driver: Driver) -> int:
    assert driver.process is not None
    status = Path(f"/proc/{driver.process.pid}/status").read_text()
    found = re.search(r"^Threads:\s+(\d+)$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("size", [1000, 5 * _MIB], ids=["small", "ranged"])
def test_registry_is_asked_for_no_more_at_once_than_policy_says_and_no_other_waits_for_it(
    pods: Pods, fake: FakeRegistry, other: FakeRegistry, size: int
) -> None:
    counted, most = Counted(), _BLOBS * _RANGES
    fake.bend("/blobs/", counted)
    slow = [pods.start(fake.artifact("r", layers(4, size), tag=f"v{number}")) for number in range(3)]
    counted.wait_for(most)
    for _ in range(3):
        pods.publish(other.artifact("r", layers(4, size)), timeout=30)
    assert not any(call.done() for call in slow)
    counted.release()
    for call in slow:
        call.result(60)
    assert counted.most == most


def test_pull_of_one_blob_does_not_wait_for_one_of_two_hundred(pods: Pods, fake: FakeRegistry) -> None:
    counted = Counted()
    fake.bend("/blobs/", counted)
    many = pods.start(fake.artifact("many", layers(200, 1000)))
    counted.wait_for(_BLOBS * _RANGES)
    one = pods.start(fake.artifact("one", layers(1, 1000)))
    wait_for(lambda: fake.count("/one/manifests/") > 0)
    while not fake.count("/one/blobs/"):
        asked = fake.count("/blobs/")
        assert asked < 100
        counted.release(1)
        wait_for(partial(more_than, fake, asked))
    counted.release()
    assert (one.result(60) / "f0").exists()
    assert (many.result(60) / "f199").exists()


def test_registry_that_answers_nothing_holds_up_no_pull_from_another(
    pods: Pods, driver: Driver, fake: FakeRegistry, other: FakeRegistry
) -> None:
    counted = Counted()
    fake.bend("/manifests/", counted)
    reference = fake.artifact("r", layers(1, 1000))
    requests = [
        publish_request(driver.target(pod=f"dead-{number}"), volume_id=f"v{number}", reference=f"{reference}{number}")
        for number in range(100)
    ]
    calls = [driver.node.NodePublishVolume.future(request) for request in requests]
    counted.wait_for(8)
    pods.publish(other.artifact("r", layers(3, 2 * _MIB)), timeout=30)
    assert not any(call.done() for call in calls)
    counted.release()
    for call in calls:
        assert call.exception(60)  # there are no such tags


def test_registries_that_hold_every_slot_leave_one_for_another(pods: Pods, other: FakeRegistry) -> None:
    with ExitStack() as stack:
        dead = [stack.enter_context(FakeRegistry()) for _ in range(4)]
        held = [Counted() for _ in dead]
        for registry, answers in zip(dead, held, strict=True):
            registry.bend("/blobs/", answers)
        stuck = [pods.start(registry.artifact("r", layers(2 * _BLOBS, 5 * _MIB))) for registry in dead]
        for answers in held:
            answers.wait_for(_BLOBS * _RANGES)
        pods.publish(other.artifact("r", layers(3, 5 * _MIB)), timeout=60)
        assert not any(call.done() for call in stuck)
        for answers in held:
            answers.release()
        for call in stuck:
            call.result(60)


def test_threads_are_gone_after_a_pull(pods: Pods, driver: Driver, fake: FakeRegistry) -> None:
    pods.publish(fake.artifact("r", layers(1, 1000), tag="first"))
    before = threads(driver)
    pods.publish(fake.artifact("small", layers(100, 1000)))
    pods.publish(fake.artifact("large", layers(4, 5 * _MIB)))
    wait_for(lambda: threads(driver) <= before)


@pytest.mark.parametrize("count", [48, 2], ids=["small", "ranged"])
def test_all_pulls_together_keep_to_the_bytes_per_second(short_path: Path, fake: FakeRegistry, count: int) -> None:
    rate, total = 8 * _MIB, 48 * _MIB
    policy = short_path / "policy.yaml"
    policy.write_text(f"pulls: {{rangeBytes: 1Mi, maxBytesPerSecond: {rate}}}\n")
    with Driver(short_path, "--config", str(policy)) as driver, ThreadPoolExecutor(2) as pool:
        pods = Pods(driver, pool)
        references = [fake.artifact("r", layers(count // 2, total // count), tag=f"v{each}") for each in range(2)]
        began = time.monotonic()
        for call in [pods.start(reference) for reference in references]:
            call.result(60)
        speed = total / (time.monotonic() - began)
        pods.end()
    assert 0.5 * rate < speed < 1.3 * rate
