"""NodeGetVolumeStats: the artifact's own size, at a cost that does not grow with it."""

from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import Layer, Pusher, files
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]


@pytest.fixture
def reference(pusher: Pusher, repository: str) -> str:
    return pusher.artifact(repository, [Layer(content=b"hello", title="a/b/x.txt"), *files(y=b"world")])


def stats(driver: Driver, volume_id: str, path: Path | str) -> csi_pb2.NodeGetVolumeStatsResponse:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=str(path))
    return driver.node.NodeGetVolumeStats(request, timeout=10)


def test_statistics_are_the_artifacts_own(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    usage = {item.unit: item for item in stats(volume.driver, volume.volume_id, volume.target).usage}
    size, inodes = usage[csi_pb2.VolumeUsage.BYTES], usage[csi_pb2.VolumeUsage.INODES]
    assert (size.total, size.used, size.available) == (10, 10, 0)
    assert (inodes.total, inodes.used, inodes.available) == (2, 2, 0)


def test_statistics_read_no_file_of_the_volume(volume: Volume, pusher: Pusher, repository: str) -> None:
    """The cost is one record and one status, however many files there are: access times do not move."""
    volume.publish(reference=pusher.artifact(repository, files(**{f"f{number}": b"x" for number in range(20)})))
    before = [path.stat().st_atime_ns for path in (volume.target, *volume.target.iterdir())]
    for _ in range(50):
        assert stats(volume.driver, volume.volume_id, volume.target).usage[1].used == 20
    assert [path.stat().st_atime_ns for path in (volume.target, *volume.target.iterdir())] == before


@pytest.mark.parametrize("path", ["some/path", "/etc", "{target}/a", "{target}x"])
def test_statistics_of_another_path_are_not_found(volume: Volume, reference: str, path: str) -> None:
    volume.publish(reference=reference)
    with refused(grpc.StatusCode.NOT_FOUND, volume.volume_id):
        stats(volume.driver, volume.volume_id, path.format(target=volume.target))


def test_statistics_of_an_unknown_volume_are_not_found(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    with refused(grpc.StatusCode.NOT_FOUND):
        stats(volume.driver, "unknown", volume.target)
    volume.unpublish()
    with refused(grpc.StatusCode.NOT_FOUND):
        stats(volume.driver, volume.volume_id, volume.target)


@pytest.mark.parametrize(("volume_id", "path"), [("", "/x"), ("x", "")])
def test_statistics_with_a_missing_field_are_invalid(shared_driver: Driver, volume_id: str, path: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        stats(shared_driver, volume_id, path)
