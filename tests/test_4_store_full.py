"""A store on a file system that is too small: refused at the start, and well again when there is room."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.errors import NoSpaceError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Reference
from csi_oras.store.paths import StatePaths
from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.gate import Gate
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.stores import content_store

pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20


@pytest.fixture
def disk(short_path: Path) -> Iterator[SmallDisk]:
    with small_disk(short_path / "state", "40m") as found:
        yield found


@pytest.fixture
def cramped(disk: SmallDisk, short_path: Path) -> Iterator[Driver]:
    with Driver(disk.directory.parent) as running:
        assert running.state == short_path / "state"
        yield running


def test_put_on_a_full_disk_is_no_space_and_heals(disk: SmallDisk) -> None:
    content = content_store(StatePaths.create(disk.directory))
    data = bytes(_MIB)
    blob = Descriptor.of(data, "application/octet-stream")
    disk.fill()
    with pytest.raises(NoSpaceError, match="full"):
        content.put(blob, data)
    assert not content.has(blob)
    disk.clear()
    content.put(blob, data)
    assert content.has(blob)


def test_artifact_larger_than_the_room_is_refused_before_a_byte_is_fetched(
    cramped: Driver, disk: SmallDisk, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, [Layer(content=bytes(30 * _MIB), title="large")])
    target = cramped.target()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reference, "needs 31.5 MB", "make room"):
        cramped.publish(target, reference=reference)
    assert not target.exists()
    assert list((disk.directory / "ingest").iterdir()) == []
    assert cramped.metrics()["csi_oras_pull_bytes_total"] == 0
    disk.grow("100m")
    cramped.publish(target, reference=reference)
    assert (target / "large").stat().st_size == 30 * _MIB
    cramped.unpublish(target)


def test_full_disk_is_resource_exhausted_and_heals_with_room(
    cramped: Driver, disk: SmallDisk, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"small", title="small")])
    target = cramped.target()
    disk.fill()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        cramped.publish(target, reference=reference)
    assert not target.exists()
    assert cramped.mounts() == []
    disk.clear()
    cramped.publish(target, reference=reference)
    assert (target / "small").read_bytes() == b"small"
    disk.fill()  # and what is published goes also when there is no room at all
    cramped.unpublish(target)
    assert not target.exists()


def test_what_is_left_of_a_pull_counts_as_room_for_it(
    disk: SmallDisk, short_path: Path, pusher: Pusher, repository: str
) -> None:
    layer = Layer(content=bytes(20 * _MIB), title="large")
    reference = pusher.artifact(repository, [layer])
    blob = Descriptor.of(layer.content, layer.media_type)
    ingest = content_store(StatePaths.create(disk.directory)).ingest(blob, str(Reference.parse(reference).repository))
    assert ingest is not None
    ingest.write(memoryview(layer.content)[: 16 * _MIB], 0)
    ingest.keep(0, 16 * _MIB)
    ingest.close()
    disk.grow("44m")  # 20 MiB do not fit beside the 16 that are there, the missing 4 do
    with Driver(short_path) as driver:
        target = driver.target()
        driver.publish(target, reference=reference)
        assert (target / "large").stat().st_size == 20 * _MIB
        driver.unpublish(target)


def test_room_for_a_pull_under_way_is_kept_from_another(
    cramped: Driver, disk: SmallDisk, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    first = pusher.artifact(f"{repository}-first", [Layer(content=b"1" * (14 * _MIB), title="file")])
    second = pusher.artifact(f"{repository}-second", [Layer(content=b"2" * (14 * _MIB), title="file")])
    slow, other = cramped.target("slow"), cramped.target("other")
    with Gate(registry.address) as gate:
        gate.hold_after(_MIB)
        reference = first.replace(registry.address, gate.address)
        with refused(grpc.StatusCode.ABORTED, "pulling"):
            cramped.publish(slow, volume_id="slow", timeout=3, reference=reference)
        gate.wait_until_held()
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, second, "other pulls"):
            cramped.publish(other, volume_id="other", reference=second)
        gate.open()
        cramped.publish(slow, volume_id="slow", reference=reference)
    assert (slow / "file").stat().st_size == 14 * _MIB
    disk.grow("100m")
    cramped.publish(other, volume_id="other", reference=second)
    for target, volume_id in ((slow, "slow"), (other, "other")):
        cramped.unpublish(target, volume_id=volume_id)


def test_room_for_a_blob_under_way_from_one_registry_is_kept_from_another_source_of_it(
    cramped: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, [Layer(content=os.urandom(14 * _MIB), title="file")])
    slow, other = cramped.target("slow"), cramped.target("other")
    with Gate(registry.address) as gate:
        gate.hold_after(_MIB)
        gated = reference.replace(registry.address, gate.address)
        with refused(grpc.StatusCode.ABORTED, "pulling"):
            cramped.publish(slow, volume_id="slow", timeout=3, reference=gated)
        gate.wait_until_held()
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reference, "other pulls"):  # it would be there twice
            cramped.publish(other, volume_id="other", reference=reference)
        gate.open()
        cramped.publish(slow, volume_id="slow", reference=gated)
    cramped.publish(other, volume_id="other", reference=reference)  # now there is nothing to fetch any more
    assert (slow / "file").stat().st_ino == (other / "file").stat().st_ino
    for target, volume_id in ((slow, "slow"), (other, "other")):
        cramped.unpublish(target, volume_id=volume_id)
