"""The kubelet's clock: a call that would take too long is answered with how far the pull is, and the retry joins it."""

import os
import re
import time
from collections.abc import Iterator

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from csi_oras.demo.distribution import Distribution
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, sha256
from tests.support.calls import publish_request, refused
from tests.support.driver import Driver
from tests.support.gate import Gate

pytestmark = pytest.mark.needs("root", "registry")
_MIB = 1 << 20


@pytest.fixture
def gate(registry: Distribution) -> Iterator[Gate]:
    with Gate(registry.address) as running:
        yield running


def wait_for_log(driver: Driver, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in driver.log:
        assert time.monotonic() < deadline, driver.log[-2000:]
        time.sleep(0.02)


def test_pull_outlives_its_call_and_the_retry_joins(
    driver: Driver, gate: Gate, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    content = os.urandom(8 * _MIB)
    pusher.artifact(repository, [Layer(content=content, title="model")])
    reference = f"{gate.address}/{repository}:v1"
    target = driver.target()
    gate.hold_after(4 * _MIB)
    for _ in range(2):
        with refused(grpc.StatusCode.ABORTED, f"pulling {reference}", " MB of 8.4 MB") as refusal:
            driver.publish(target, reference=reference, timeout=3)
        assert re.search(r": \d+ % \(\d\.\d MB of 8\.4 MB", refusal.message), refusal.message
        assert not target.exists()
        assert driver.metrics()["csi_oras_pulls_in_flight"] == 1
    gate.open()
    driver.publish(target, reference=reference)
    assert (target / "model").read_bytes() == content
    assert len(AccessLog(registry, repository).gets(sha256(content))) == 1
    driver.unpublish(target)


def test_pull_goes_on_while_nobody_asks(driver: Driver, gate: Gate, pusher: Pusher, repository: str) -> None:
    pusher.artifact(repository, [Layer(content=os.urandom(2 * _MIB), title="model")])
    reference = f"{gate.address}/{repository}:v1"
    target = driver.target()
    gate.hold_after(_MIB)
    with refused(grpc.StatusCode.ABORTED):
        driver.publish(target, reference=reference, timeout=3)
    gate.open()
    wait_for_log(driver, '"event": "pull ended"')
    assert not target.exists()
    driver.publish(target, reference=reference, timeout=5)
    assert (target / "model").exists()
    driver.unpublish(target)


def test_failure_after_the_call_gave_up_is_heard_by_the_retry(
    driver: Driver, gate: Gate, pusher: Pusher, repository: str
) -> None:
    reference = f"{gate.address}/{repository}:absent"
    target = driver.target()
    gate.hold_after(0)
    with refused(grpc.StatusCode.ABORTED, f"pulling {reference}: asking the registry"):
        driver.publish(target, reference=reference, timeout=3)
    gate.open()
    wait_for_log(driver, '"event": "pull ended"')
    with refused(grpc.StatusCode.NOT_FOUND, reference):
        driver.publish(target, reference=reference)
    assert not target.exists()
    # and then it is tried anew: by now somebody may have pushed it
    pusher.artifact(repository, [Layer(content=b"late", title="x")], tag="absent")
    driver.publish(target, reference=reference)
    assert (target / "x").read_bytes() == b"late"
    driver.unpublish(target)


def test_unpublish_during_a_pull_is_heard(driver: Driver, gate: Gate, pusher: Pusher, repository: str) -> None:
    pusher.artifact(repository, [Layer(content=os.urandom(2 * _MIB), title="model")])
    reference = f"{gate.address}/{repository}:v1"
    target = driver.target()
    gate.hold_after(_MIB)
    with refused(grpc.StatusCode.ABORTED):
        driver.publish(target, reference=reference, timeout=3)
    driver.unpublish(target)
    gate.open()
    wait_for_log(driver, '"event": "pull ended"')
    assert driver.mounts() == []
    assert not target.exists()


def test_waiting_publishes_starve_no_other_call(driver: Driver, gate: Gate, pusher: Pusher, repository: str) -> None:
    """A hundred publishes wait for one pull; a plain thread pool would leave nothing for Probe."""
    small = pusher.artifact(repository, [Layer(content=b"small", title="x")], tag="small")
    pusher.artifact(repository, [Layer(content=os.urandom(2 * _MIB), title="model")])
    reference = f"{gate.address}/{repository}:v1"
    target = driver.target()
    driver.publish(target, reference=small)  # so that it is local
    driver.unpublish(target)
    gate.hold_after(_MIB)
    targets = [driver.target(pod=f"pod-{number}") for number in range(100)]
    calls = [
        driver.node.NodePublishVolume.future(publish_request(path, volume_id=f"v{number}", reference=reference))
        for number, path in enumerate(targets)
    ]
    gate.wait_until_held()
    started = time.monotonic()
    driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
    driver.publish(target, reference=small, timeout=5)
    driver.unpublish(target)
    assert time.monotonic() - started < 5
    assert not any(call.done() for call in calls)
    gate.open()
    for number, call in enumerate(calls):
        call.result(60)
        driver.unpublish(targets[number], volume_id=f"v{number}")
    assert driver.mounts() == []
