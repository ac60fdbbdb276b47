"""What a start does with the records that a killed process has left, while calls come in already."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import VolumeConflictError
from csi_oras.store.volumes import VolumeState
from csi_oras.transfer.demand import Demand
from csi_oras.volume.volumes import VolumeStatistics
from tests.support.artifacts import files
from tests.support.fake_registry import FakeRegistry
from tests.support.node import DRIVER, Node
from tests.support.pods import Held
from tests.support.small_disk import small_disk

pytestmark = pytest.mark.needs("root")
pytest_plugins = ["tests.support.fake_fixtures"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    kubelet = tmp_path / "kubelet"
    kubelet.mkdir()
    node = Node(tmp_path / "state", kubelet)
    yield node
    for record in node.records.all():
        node.volumes.unpublish(record.volume_id, record.target)
    node.app.close()


def test_publish_that_has_just_begun_is_not_taken_for_one_of_before(
    node: Node, fake: FakeRegistry, repository: str
) -> None:
    held = Held()
    request = node.request(fake.artifact(repository, files(x=b"here")))
    fake.bend("/blobs/", held)
    node.records.put(request.record(VolumeState.PUBLISHING))  # the process of before was killed in its pull
    node.recovery.take_stock()
    job = node.begin(request)
    assert job is not None
    held.wait()
    node.recovery.reconcile()
    held.release()
    node.volumes.finish(request, job.future.result(30))
    assert (Path(request.target) / "x").read_bytes() == b"here"


def test_start_drops_what_is_no_more_and_keeps_what_is_mounted(node: Node, fake: FakeRegistry, repository: str) -> None:
    reference = fake.artifact(repository, files(x=b"here"))
    for name in ("mounted", "gone", "gone-with-its-pod"):
        node.publish(node.request(reference, name))
    for name in ("gone", "gone-with-its-pod"):
        subprocess.run(["umount", node.kubelet / name / "mount"], check=True)
    (node.kubelet / "gone-with-its-pod/mount").rmdir()
    (node.kubelet / "gone-with-its-pod").rmdir()
    published = node.records.all()[0]
    node.records.put(replace(published, volume_id="elsewhere", target="/another/kubelet/mount"))
    node.records.put(replace(published, volume_id="intent", state=VolumeState.PUBLISHING))
    node.recovery.take_stock()
    node.recovery.reconcile()
    assert node.known() == ["mounted"]


def test_start_on_a_full_disk_goes_on_with_what_it_cannot_drop(tmp_path: Path, fake: FakeRegistry) -> None:
    with small_disk(tmp_path / "disk", "10m") as disk:
        node = Node(disk.directory / "state", tmp_path)
        request = node.request(f"{fake.address}/a/b:v1")
        node.records.put(request.record(VolumeState.PUBLISHING))
        node.app.database.query("PRAGMA wal_checkpoint(TRUNCATE)")  # no room is left in its log
        disk.fill()
        node.recovery.take_stock()
        assert node.known() == ["volume"]
        disk.clear()
        node.recovery.take_stock()
        assert node.known() == []
        node.app.close()
        node.app.database.close()


def test_publish_that_nobody_asks_for_any_more_is_forgotten_while_the_driver_runs(
    node: Node, fake: FakeRegistry
) -> None:
    requests = [node.request(f"{fake.address}/a/b:v1", name) for name in ("asked-for", "forgotten")]
    for request in requests:
        node.records.put(request.record(VolumeState.PUBLISHING))
    node.app.database.query("UPDATE volumes SET since = since - 200")  # the kubelet comes back within 223 s
    node.recovery.reconcile()
    assert node.known() == ["asked-for", "forgotten"]
    node.app.database.query("UPDATE volumes SET since = since - 101 WHERE volume_id = 'forgotten'")
    node.recovery.reconcile()
    assert node.known() == ["asked-for"]


def test_pull_of_a_publish_that_nobody_asks_for_any_more_is_not_wanted_for_its_sake(
    node: Node, fake: FakeRegistry, repository: str
) -> None:
    held = Held()
    fake.bend("/blobs/", held)
    reference = fake.artifact(repository, files(x=b"here"))
    jobs, demands = [node.begin(node.request(reference, name)) for name in ("asked-for", "forgotten")], []
    job = jobs[0]
    assert job is not None
    assert jobs == [job, job]
    for name in ("forgotten", "asked-for"):
        node.app.database.query("UPDATE volumes SET since = since - 400 WHERE volume_id = ?", name)
        node.recovery.reconcile()
        demands.append(node.app.puller.jobs.demand(job))
    assert demands == [Demand.FOREGROUND, Demand.BACKGROUND]  # until somebody comes, or nobody has for a while
    held.release()
    job.future.result(30)


def test_what_the_kubelet_says_of_a_mount_without_a_record_is_believed_only_if_it_is_ours(
    node: Node, fake: FakeRegistry, repository: str
) -> None:
    reference = fake.artifact(repository, files(x=b"here", y=b"and here"))
    said = {
        "known": json.dumps({"driverName": DRIVER, "volumeHandle": "known"}),
        "of-another-driver": json.dumps({"driverName": "else", "volumeHandle": "of-another-driver"}),
        "of-nobody": None,
        "torn": json.dumps({"driverName": DRIVER, "volumeHandle": "torn"})[:-3],
        "no-text": json.dumps({"driverName": DRIVER, "volumeHandle": 7}),
        "control-characters": json.dumps({"driverName": DRIVER, "volumeHandle": "a\nb"}),
        "too-long": json.dumps({"driverName": DRIVER, "volumeHandle": "x" * 129}),
        "deep": "[" * 100_000,
    }
    for name, text in said.items():
        node.publish(node.request(reference, name))
        if text is not None:
            (node.kubelet / name / "vol_data.json").write_text(text)
    lost = node.records.all()
    node.app.database.query("DELETE FROM volumes")
    node.recovery.adopt()
    assert node.known() == ["known"]
    path = str(node.kubelet / "known/mount")
    assert node.volumes.statistics("known", path) == VolumeStatistics(size=12, files=2)
    assert len(node.mounted()) == len(said)  # nothing is taken away: who knows who uses it
    for record in lost:
        node.volumes.unpublish(record.volume_id, record.target)
    assert node.mounted() == []


def test_adopted_mount_is_known_by_what_the_kubelet_asks_for_next(
    node: Node, fake: FakeRegistry, repository: str
) -> None:
    request = node.request(fake.artifact(repository, files(x=b"here")))
    node.publish(request)
    known = node.records.all()
    data = {"driverName": DRIVER, "volumeHandle": request.volume_id}
    (node.kubelet / "volume/vol_data.json").write_text(json.dumps(data))
    node.app.database.query("DELETE FROM volumes")
    node.recovery.adopt()
    assert node.begin(request) is None
    assert [replace(record, artifact="", reference="") for record in node.records.all()] == [
        replace(record, artifact="", reference="") for record in known
    ]
    with pytest.raises(VolumeConflictError, match="other attributes"):
        node.begin(replace(request, fingerprint="another"))


def test_what_the_kubelet_binds_of_a_volume_is_no_volume(
    node: Node, fake: FakeRegistry, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = node.request(fake.artifact(repository, files(x=b"here")))
    node.publish(request)
    binds = {name: node.kubelet / "pods/uid" / name / "0" for name in ("volume-subpaths", "elsewhere")}
    for bind in binds.values():
        bind.mkdir(parents=True)
        subprocess.run(["mount", "--bind", request.target, bind], check=True)
    node.recovery.adopt()
    said = capsys.readouterr().out
    assert str(binds["elsewhere"]) in said
    assert str(binds["volume-subpaths"]) not in said
    assert node.known() == ["volume"]
    for bind in binds.values():
        subprocess.run(["umount", bind], check=True)
