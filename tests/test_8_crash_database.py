"""The database is lost or damaged while pods run: they keep their volumes, and the store is used on."""

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from csi_oras.demo.distribution import Distribution
from tests.support.access_log import AccessLog
from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver
from tests.support.kinds_archives import oras_directory
from tests.support.outside import Outside, contents
from tests.support.pods import wait_for
from tests.support.tars import tar

_SHOWN = {"x": b"right", "packed/a": b"member"}
_SIZE = sum(map(len, _SHOWN.values()))


def _checkpoint(path: Path) -> None:
    """Bring everything into the file itself, for its log could mend it."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _cut(path: Path, share: float) -> None:
    _checkpoint(path)
    os.truncate(path, int(path.stat().st_size * share))


def _overwrite(path: Path, start: int = 0) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:start] + random.Random(0).randbytes(len(content) - start))  # noqa: S311 (any bytes)


def _overwrite_file(path: Path, start: int = 0) -> None:
    _checkpoint(path)
    _overwrite(path, start)


def _delete_all(path: Path) -> None:
    for part in path.parent.glob("state.db*"):
        part.unlink()


def _log(path: Path) -> Path:
    return path.with_name("state.db-wal")


class Node:
    """A driver and volumes of one artifact."""

    def __init__(self, driver: Driver, reference: str, log: AccessLog) -> None:
        self.driver = driver
        self.log = log
        self._reference = reference
        self._policy = driver.directory / "policy.yaml"
        self._policy.write_text("store: {minAge: 0s}\n")

    def _target(self, name: str) -> Path:
        return self.driver.target(pod=name)

    def parent(self, name: str) -> Path:
        return self._target(name).parent

    def said_by_the_kubelet(self, name: str) -> dict[str, str]:
        return {"volumeHandle": name, "driverName": "csi.oras.land", "volumeLifecycleMode": "Ephemeral"}

    def publish(self, *names: str) -> None:
        for name in names:
            self.driver.publish(self._target(name), volume_id=name, reference=self._reference)

    def size(self, name: str) -> int | None:
        """What the driver says of the volume's size, if it knows the volume."""
        request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=name, volume_path=str(self._target(name)))
        try:
            return int(self.driver.node.NodeGetVolumeStats(request, timeout=30).usage[0].used)
        except grpc.RpcError:
            return None

    def check_shown(self, *names: str) -> None:
        for name in names:
            assert self.driver.mounts().count(str(self._target(name))) == 1
            assert contents(self._target(name)) == _SHOWN

    def inodes(self, part: str) -> dict[str, int]:
        found = (self.driver.state / part).rglob("*")
        return {str(path): path.stat().st_ino for path in found if path.is_file()}

    def collect(self) -> None:
        options = ["--state-dir", str(self.driver.state), "--config", str(self._policy)]
        command = [sys.executable, "-m", "csi_oras", "store", "gc", "--all", *options]
        subprocess.run(command, check=True, timeout=60, capture_output=True)

    def end(self, *names: str) -> None:
        """Unpublish, give back everything, and see to it that nothing is left."""
        for name in names:
            self.driver.unpublish(self._target(name), volume_id=name)
            assert not self._target(name).exists()
        assert self.driver.mounts() == []
        self.collect()
        outside = Outside(self.driver.state)
        assert outside.files() == []
        assert outside.rows("volumes") == outside.rows("leases") == []


@pytest.fixture
def node(driver: Driver, registry: Distribution, pusher: Pusher, repository: str) -> Node:
    packed = oras_directory("packed", tar([{"name": "packed/a", "content": "member"}]))
    reference = pusher.artifact(repository, [packed, *files(x=b"right")])
    return Node(driver, reference, AccessLog(registry, repository))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="deleted without its log"),
        pytest.param(_delete_all, id="deleted"),
        pytest.param(lambda path: _cut(path, 0), id="empty"),
        pytest.param(lambda path: _cut(path, 0.001), id="cut in its header"),
        pytest.param(lambda path: _cut(path, 0.5), id="cut in half"),
        pytest.param(_overwrite_file, id="overwritten"),
        pytest.param(lambda path: _overwrite_file(path, 4096), id="overwritten behind its first page"),
        pytest.param(lambda path: os.truncate(_log(path), _log(path).stat().st_size // 3), id="log torn"),
        pytest.param(lambda path: _overwrite(_log(path)), id="log overwritten"),
    ],
)
def test_pods_keep_their_volumes_when_the_database_is_lost(node: Node, damage: Callable[[Path], None]) -> None:
    node.publish("known", "unknown")
    (node.parent("known") / "vol_data.json").write_text(json.dumps(node.said_by_the_kubelet("known")))
    trees, blobs = node.inodes("trees"), node.inodes("blobs")
    node.driver.kill()
    damage(node.driver.state / "state.db")
    node.driver.start()
    wait_for(lambda: node.size("known") == _SIZE)  # recorded again at the start, for the kubelet says what it is
    node.check_shown("known", "unknown")
    asked = len(node.log.requests())
    node.publish("known", "unknown")  # as a kubelet that starts anew does
    assert len(node.log.requests()) == asked
    assert (node.size("known"), node.size("unknown")) == (_SIZE, _SIZE)
    node.publish("new")
    node.check_shown("known", "unknown", "new")
    assert (node.inodes("trees"), node.inodes("blobs")) == (trees, blobs)  # proven, and used again
    node.collect()
    node.check_shown("known", "unknown", "new")
    node.end("known", "unknown", "new")


@pytest.mark.parametrize("arguments", [("store", "ls"), ("store", "gc")])
def test_command_says_that_a_database_was_cut_short_under_a_running_driver(
    driver: Driver, arguments: tuple[str, ...]
) -> None:
    for path in (driver.state / "state.db", _log(driver.state / "state.db")):
        os.truncate(path, 0)
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(driver.state)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert re.search(r"is damaged \((it was cut short, and is empty|damage was met in it)\); restart", said.stderr)
    driver.kill()
    driver.start()
    subprocess.run(command, check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("arguments", [("store", "ls"), ("store", "verify"), ("outbox", "ls")])
def test_command_that_sets_a_corrupt_database_aside_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "state.db").write_bytes(bytes(range(256)) * 16)
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (aside,) = tmp_path.glob("state.db.corrupt-*")
    assert said.stderr.count("\n") == 1
    assert "the database was corrupt and is set aside" in said.stderr
    assert str(aside) in said.stderr


def test_mount_whose_record_is_lost_is_kept_while_no_driver_runs(node: Node) -> None:
    node.publish("unknown")
    node.driver.kill()
    _delete_all(node.driver.state / "state.db")
    node.collect()
    node.check_shown("unknown")
    node.driver.start()
    node.end("unknown")
