"""A pull survives its driver: it goes on from the bytes that are there, with a ranged request."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.store.paths import StatePaths
from tests.support.artifacts import Layer, Pusher, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.gate import Gate

pytestmark = pytest.mark.needs("root", "registry")
_MIB = 1 << 20


@pytest.fixture
def gate(registry: Distribution) -> Iterator[Gate]:
    with Gate(registry.address) as running:
        yield running


def kept_bytes(driver: Driver, content: bytes) -> int:
    """How much of a blob the driver has written down as there."""
    paths = (driver.state / "ingest").glob(f"{sha256(content).partition(':')[2]}-*.extents")
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return sum(int(end) - int(start) for start, end in (line.split() for line in lines))


def wait_for_kept(driver: Driver, content: bytes, count: int) -> None:
    deadline = time.monotonic() + 30
    while kept_bytes(driver, content) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pull_after_kill_fetches_only_what_is_missing(
    short_path: Path, gate: Gate, pusher: Pusher, repository: str
) -> None:
    content = os.urandom(40 * _MIB)
    pusher.artifact(repository, [Layer(content=content, title="model")])
    reference = f"{gate.address}/{repository}:v1"
    driver = Driver(short_path)
    target = driver.target()
    gate.hold_after(30 * _MIB)
    with driver:
        with refused(grpc.StatusCode.ABORTED, reference):
            driver.publish(target, reference=reference, timeout=4)
        gate.wait_until_held()
        wait_for_kept(driver, content, 12 * _MIB)
        driver.kill()
        kept, before = kept_bytes(driver, content), gate.passed
        gate.open()
        driver.start()
        driver.publish(target, reference=reference)
        assert (target / "model").read_bytes() == content
        assert gate.passed - before <= 40 * _MIB - kept + _MIB  # some for headers and what the dead driver's held
        assert list((driver.state / "ingest").iterdir()) == []
        driver.unpublish(target)


def test_bytes_that_a_crash_tore_are_found_out_and_fetched_again(
    short_path: Path, gate: Gate, pusher: Pusher, repository: str
) -> None:
    content = os.urandom(20 * _MIB)
    pusher.artifact(repository, [Layer(content=content, title="model")])
    reference = f"{gate.address}/{repository}:v1"
    driver = Driver(short_path)
    paths = StatePaths.create(driver.state)
    ingest = Path(paths.ingest(Digest.of(content), str(Reference.parse(reference).repository)))
    ingest.write_bytes(content[: 8 * _MIB] + bytes(4 * _MIB))  # said to be there, but never reached the disk
    ingest.with_name(f"{ingest.name}.extents").write_text(f"0 {12 * _MIB}\n")
    with driver:
        target = driver.target()
        driver.publish(target, reference=reference)
        assert (target / "model").read_bytes() == content
        assert gate.passed > 8 * _MIB + 20 * _MIB  # what was missing, and then all of it
        driver.unpublish(target)


def test_stop_in_the_middle_of_a_pull_is_quick_and_keeps_the_bytes(
    short_path: Path, gate: Gate, pusher: Pusher, repository: str
) -> None:
    content = os.urandom(20 * _MIB)
    pusher.artifact(repository, [Layer(content=content, title="model")])
    reference = f"{gate.address}/{repository}:v1"
    gate.hold_after(18 * _MIB)
    with Driver(short_path) as driver:
        target = driver.target()
        with refused(grpc.StatusCode.ABORTED):
            driver.publish(target, reference=reference, timeout=3)
        gate.wait_until_held()
        wait_for_kept(driver, content, 4 * _MIB)
        process = driver.process
        started = time.monotonic()
        driver.stop()
        assert process is not None
        assert process.returncode == 0
        assert time.monotonic() - started < 10
        assert kept_bytes(driver, content) >= 4 * _MIB
        gate.open()
        driver.start()
        driver.publish(target, reference=reference)
        assert (target / "model").read_bytes() == content
        driver.unpublish(target)
