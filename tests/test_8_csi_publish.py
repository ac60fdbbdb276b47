"""Publish and unpublish as a kubelet calls them: again, at once, after a crash, and with the registry gone."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from csi_oras.demo.distribution import Distribution
from csi_oras.mount import mountinfo
from tests.support.artifacts import Layer, Pusher, files
from tests.support.calls import publish_request, refused
from tests.support.driver import MULTI_NODE_READER_ONLY, Driver, mount_capability, pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.pods import Held
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared", "tests.support.fake_fixtures"]


@pytest.fixture
def reference(pusher: Pusher, repository: str) -> str:
    return pusher.artifact(repository, [Layer(content=b"hello", title="a/b/x.txt"), *files(y=b"world")])


@pytest.fixture
def fleeting(tmp_path: Path) -> Iterator[tuple[Distribution, str]]:
    """A registry that a test may stop, and an artifact in it."""
    with Distribution(tmp_path / "registry") as running:
        yield running, Pusher(running.address).artifact("a/b", files(x=b"here"))


def test_publish_shows_the_artifact_and_unpublish_leaves_nothing(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    assert volume.names() == ["a/b/x.txt", "y"]
    assert (volume.target / "a/b/x.txt").read_bytes() == b"hello"
    volume.unpublish()
    assert volume.is_gone()
    assert volume.target.parent.is_dir()  # the kubelet's own


def test_publish_ten_times_is_one_mount(volume: Volume, reference: str) -> None:
    for _ in range(10):
        volume.publish(reference=reference, pullPolicy="Always")
        assert volume.mounts == 1
    volume.unpublish()
    assert volume.is_gone()


def test_publishes_of_one_volume_at_once_are_one_mount_with_all_content(volume: Volume, reference: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        for call in [pool.submit(volume.publish, reference=reference) for _ in range(20)]:
            call.result(30)
    assert volume.mounts == 1
    assert volume.names() == ["a/b/x.txt", "y"]


def test_publishes_and_unpublishes_at_once_end_in_one_state_or_the_other(volume: Volume, reference: str) -> None:
    request = publish_request(volume.target, volume_id=volume.volume_id, reference=reference)

    def publish() -> None:
        call = volume.driver.node.NodePublishVolume.future(request)
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.ABORTED)

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(publish if number % 2 else volume.unpublish) for number in range(40)]
        for call in calls:
            call.result(30)
    assert volume.mounts <= 1
    assert volume.target.exists() == (volume.mounts == 1)
    volume.publish(reference=reference)
    assert volume.names() == ["a/b/x.txt", "y"]


def test_publish_of_one_volume_at_two_targets_is_two_mounts(volume: Volume, other: Volume, reference: str) -> None:
    other.volume_id = volume.volume_id
    volume.publish(reference=reference)
    other.publish(reference=reference)
    volume.unpublish()
    assert volume.is_gone()
    assert other.mounts == 1


@pytest.mark.parametrize(
    "different",
    [{"include": "y"}, {"noexec": "true"}, {"reference": "{}@sha256:" + "0" * 64}, {"readonly": False}],
    ids=str,
)
def test_publish_with_other_arguments_is_already_exists_and_changes_nothing(
    volume: Volume, reference: str, different: dict[str, str | bool]
) -> None:
    volume.publish(reference=reference)
    changed = {key: value.format(reference) if isinstance(value, str) else value for key, value in different.items()}
    with refused(grpc.StatusCode.ALREADY_EXISTS, volume.volume_id, "other attributes"):
        volume.publish(**{"reference": reference, **changed})
    assert volume.mounts == 1
    assert volume.names() == ["a/b/x.txt", "y"]


def test_publish_of_another_access_mode_is_already_exists(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        volume.publish(reference=reference, capability=mount_capability(MULTI_NODE_READER_ONLY))
    assert volume.mounts == 1


def test_publish_of_another_volume_at_the_same_target_is_already_exists(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    with refused(grpc.StatusCode.ALREADY_EXISTS, volume.volume_id):
        volume.driver.publish(volume.target, volume_id="another", reference=reference, include="y")
    assert volume.names() == ["a/b/x.txt", "y"]


def test_what_the_cluster_adds_may_change_between_two_publishes(volume: Volume, reference: str) -> None:
    tokens = "csi.storage.k8s.io/serviceAccount.tokens"
    volume.publish(reference=reference, secrets={"username": "a", "password": "1"}, **{**pod_context(), tokens: "one"})
    volume.publish(reference=reference, secrets={"username": "a", "password": "2"}, **{**pod_context(), tokens: "two"})
    volume.publish(reference=reference, **pod_context())
    assert volume.mounts == 1


def test_publish_again_asks_no_registry_and_survives_restarts(
    driver: Driver, fleeting: tuple[Distribution, str]
) -> None:
    registry, reference = fleeting
    target, second = driver.target(), driver.target(pod="uid-2")
    driver.publish(target, reference=reference, pullPolicy="Always")
    registry.stop()
    driver.publish(target, reference=reference, pullPolicy="Always")
    for end in (driver.stop, driver.kill):
        end()
        assert (target / "x").read_bytes() == b"here"  # the pod never notices
        driver.start()
        driver.publish(target, reference=reference, pullPolicy="Always")
        assert driver.mounts() == [str(target)]
        driver.publish(second, volume_id="v2", reference=reference)  # what is local needs no registry either
        assert (second / "x").read_bytes() == b"here"
        driver.unpublish(second, volume_id="v2")
    with refused(grpc.StatusCode.UNAVAILABLE, reference):
        driver.publish(second, volume_id="v2", reference=reference, pullPolicy="Always")
    driver.unpublish(target)
    assert driver.mounts() == []


def test_unpublish_after_kill_takes_everything_away(driver: Driver, reference: str) -> None:
    target = driver.target()
    driver.publish(target, reference=reference)
    driver.kill()
    driver.start()
    driver.unpublish(target)
    assert not target.exists()
    assert driver.mounts() == []


def test_mount_whose_record_is_lost_is_adopted(driver: Driver, fleeting: tuple[Distribution, str]) -> None:
    registry, reference = fleeting
    target = driver.target()
    driver.publish(target, reference=reference)
    driver.kill()
    registry.stop()
    for path in driver.state.glob("state.db*"):
        path.unlink()
    driver.start()
    driver.publish(target, reference=reference, pullPolicy="Always")
    assert driver.mounts() == [str(target)]
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="volume-1", volume_path=str(target))
    assert driver.node.NodeGetVolumeStats(request).usage[0].used == 4
    driver.unpublish(target)
    assert not target.exists()


def test_unpublish_of_a_mount_whose_record_is_lost_takes_it_away(driver: Driver, reference: str) -> None:
    target, single = driver.target(), driver.target(pod="uid-2")
    driver.publish(target, reference=reference)
    driver.publish(single, volume_id="v2", reference=reference, path="y")
    driver.kill()
    for path in driver.state.glob("state.db*"):
        path.unlink()
    driver.start()
    driver.unpublish(target)
    driver.unpublish(single, volume_id="v2")
    assert driver.mounts() == []
    assert not target.exists()
    assert not single.exists()


def test_unpublish_after_the_state_directory_was_wiped_takes_the_mounts_away(driver: Driver, reference: str) -> None:
    """A mount that stays while the kubelet is told that it is gone would be followed by whatever deletes the pod."""
    target, single = driver.target(), driver.target(pod="uid-2")
    driver.publish(target, reference=reference)
    driver.publish(single, volume_id="v2", reference=reference, path="y")
    driver.kill()
    shutil.rmtree(driver.state)
    driver.start()
    driver.unpublish(target)
    driver.unpublish(single, volume_id="v2")
    assert driver.mounts() == []
    assert not target.exists()
    assert not single.exists()


def test_publish_after_the_state_directory_was_wiped_shows_the_artifact_again(driver: Driver, reference: str) -> None:
    target = driver.target()
    driver.publish(target, reference=reference)
    driver.kill()
    shutil.rmtree(driver.state)
    driver.start()
    for _ in range(2):
        driver.publish(target, reference=reference)
        assert (target / "y").read_bytes() == b"world"
        assert driver.mounts() == [str(target)]
    driver.unpublish(target)
    assert not target.exists()


@pytest.mark.parametrize("lost", [False, True], ids=["with its record", "without"])
def test_what_is_stacked_on_a_mount_of_ours_goes_with_it(driver: Driver, reference: str, *, lost: bool) -> None:
    target = driver.target()
    driver.publish(target, reference=reference)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    if lost:
        driver.kill()
        for path in driver.state.glob("state.db*"):
            path.unlink()
        driver.start()
    driver.unpublish(target)
    assert driver.mounts() == []
    assert not target.exists()


def test_mount_of_somebody_else_is_neither_taken_for_ours_nor_taken_away(driver: Driver, reference: str) -> None:
    """Nor is it called unpublished: to the kubelet that means that there is nothing left."""
    target = driver.target()
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    (target / "data").write_text("precious")
    with refused(grpc.StatusCode.ALREADY_EXISTS, str(target), "not of this driver"):
        driver.publish(target, reference=reference)
    with refused(grpc.StatusCode.ABORTED, str(target), "not of this driver", "unmount it"):
        driver.unpublish(target)
    assert [mount.filesystem for mount in mountinfo.read() if mount.target == str(target)] == ["tmpfs"]
    assert (target / "data").read_text() == "precious"
    subprocess.run(["umount", target], check=True)
    driver.unpublish(target)
    assert not target.exists()


def test_mount_of_somebody_else_that_came_during_the_pull_is_left_alone(
    driver: Driver, fake: FakeRegistry, repository: str
) -> None:
    held, target = Held(), driver.target()
    reference = fake.artifact(repository, files(x=b"here"))
    fake.bend("/blobs/", held)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(driver.publish, target, reference=reference)
        held.wait()
        target.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
        held.release()
        with refused(grpc.StatusCode.ALREADY_EXISTS, "not of this driver"):
            call.result(30)
    with refused(grpc.StatusCode.ABORTED, "not of this driver"):
        driver.unpublish(target)
    assert driver.mounts() == [str(target)]


def test_mount_that_went_with_a_reboot_is_made_again(driver: Driver, reference: str) -> None:
    target = driver.target()
    driver.publish(target, reference=reference)
    driver.kill()
    driver.unmount_all()
    driver.start()
    driver.publish(target, reference=reference)
    assert (target / "y").read_bytes() == b"world"
    driver.kill()
    driver.unmount_all()
    driver.start()
    driver.unpublish(target)
    assert not target.exists()


def test_stacked_mounts_all_go_with_one_unpublish(volume: Volume, reference: str) -> None:
    volume.publish(reference=reference)
    for _ in range(3):
        subprocess.run(["mount", "--bind", volume.target, volume.target], check=True)
    assert volume.mounts == 4
    volume.unpublish()
    assert volume.is_gone()


def test_unpublish_of_the_unknown_is_success(shared_driver: Driver) -> None:
    missing = shared_driver.kubelet / "pods" / "never" / "mount"
    for _ in range(2):
        shared_driver.unpublish(missing, volume_id="never seen")
    empty = shared_driver.target(pod="empty")
    empty.mkdir()
    shared_driver.unpublish(empty, volume_id="never seen")
    assert not empty.exists()


def test_unpublish_never_takes_files_that_are_not_ours(shared_driver: Driver) -> None:
    target = shared_driver.target(pod="foreign")
    target.mkdir()
    (target / "data").write_text("precious")
    shared_driver.unpublish(target, volume_id="never seen")
    assert (target / "data").read_text() == "precious"


def test_unpublish_names_another_volume_than_is_there(volume: Volume, reference: str) -> None:
    """The kubelet may have lost track; a path of ours is cleared, whoever is named."""
    volume.publish(reference=reference)
    volume.driver.unpublish(volume.target, volume_id="another")
    volume.unpublish()
    assert volume.is_gone()


@pytest.mark.parametrize(
    ("volume_id", "path", "word"),
    [
        ("", "{}/pods/x/mount", "volume_id"),
        ("x", "", "target_path"),
        ("x", "/etc/passwd", "not below the kubelet directory"),
        ("x", "{}/../etc/mount", "path"),
        ("x" * 129, "{}/pods/x/mount", "volume_id"),
        ("a\nb", "{}/pods/x/mount", "volume_id"),
    ],
)
def test_unpublish_with_a_bad_field_is_invalid_argument(
    shared_driver: Driver, volume_id: str, path: str, word: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, word):
        shared_driver.unpublish(path.format(shared_driver.kubelet), volume_id=volume_id)
