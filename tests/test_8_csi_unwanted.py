"""A pod deleted in mid-pull leaves nothing on the node; one that takes its place in time goes on from there."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.gate import Gate
from tests.support.pods import wait_for
from tests.support.pulling import drip
from tests.support.volume import Volume

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    policy = short_path / "policy.yaml"
    policy.write_text("pulls: {rangeBytes: 1Mi, parallelBlobs: 1, parallelRanges: 2}\n")
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


def threads(driver: Driver) -> int:
    assert driver.process is not None
    found = re.search(r"^Threads:\s+(\d+)$", Path(f"/proc/{driver.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def rows(driver: Driver) -> list[tuple[object, ...]]:
    """What the database knows of volumes and of who holds what."""
    with closing(sqlite3.connect(f"file:{driver.state / 'state.db'}?mode=ro", uri=True)) as database:
        return [row for table in ("volumes", "leases", "holders") for row in database.execute(f"SELECT * FROM {table}")]  # noqa: S608


def is_clean(driver: Driver) -> bool:
    return not [path for name in ("ingest", "staging", "trees") for path in (driver.state / name).iterdir()]


def test_pod_deleted_in_mid_pull_leaves_nothing(driver: Driver, gate: Gate, fake: FakeRegistry) -> None:
    small, large = (Layer(content=os.urandom(size), title=f"f{size}") for size in (1000, 64 * _MIB))
    fake.artifact("r", [small, large])
    reference = f"{gate.address}/r:v1"
    volume, before = Volume(driver), 0
    with refused(grpc.StatusCode.NOT_FOUND):  # every thread that stays has begun
        volume.publish(reference=f"{gate.address}/absent:v1")
    wait_for(lambda: threads(driver) > 0)
    before = threads(driver)
    gate.hold_after(4 * _MIB)
    with refused(grpc.StatusCode.ABORTED, reference):
        volume.publish(reference=reference, timeout=3)
    volume.unpublish()
    assert volume.is_gone()
    drip(gate, lambda: is_clean(driver))
    asked = fake.count("/blobs/")
    gate.open()
    wait_for(lambda: not rows(driver) and threads(driver) <= before)
    assert fake.count("/blobs/") == asked < 64
    assert driver.metrics()["csi_oras_pulls_in_flight"] == 0
    assert "pull ended" in driver.log
    volume.publish(reference=reference)
    assert (volume.target / f"f{64 * _MIB}").read_bytes() == large.content
    volume.unpublish()
    assert fake.count(f"/blobs/{sha256(small.content)}") == 1


def test_pod_that_takes_the_place_of_another_goes_on_with_its_pull(
    driver: Driver, gate: Gate, fake: FakeRegistry
) -> None:
    content = os.urandom(16 * _MIB)
    fake.artifact("r", [Layer(content=content, title="x")])
    reference = f"{gate.address}/r:v1"
    before, after = Volume(driver), Volume(driver)
    gate.hold_after(4 * _MIB)
    with refused(grpc.StatusCode.ABORTED, reference):
        before.publish(reference=reference, timeout=3)
    before.unpublish()
    with refused(grpc.StatusCode.ABORTED, reference, " % ("):  # with what has come for the other
        after.publish(reference=reference, timeout=3)
    gate.open()
    after.publish(reference=reference)
    assert (after.target / "x").read_bytes() == content
    after.unpublish()
    assert fake.count("/blobs/") == 16
