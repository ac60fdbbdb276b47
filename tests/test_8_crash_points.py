"""Each row of the crash table: a real driver is killed at a step, then it is looked at from outside, and goes on."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.store.database import Database
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.dying_driver import dying
from tests.support.kinds_archives import oras_directory
from tests.support.outside import Outside, contents, is_read_only
from tests.support.pods import wait_for
from tests.support.rot import rot
from tests.support.tars import tar

pytestmark = pytest.mark.needs("root", "registry")
_MIB = 1 << 20
_MEMBERS = {f"packed/{number}": b"member %d" % number for number in range(12)}


@dataclass(frozen=True)
class Artifact:
    """What is pushed, and what a volume of it must show."""

    layers: list[Layer]
    shown: dict[str, bytes]


def _packed() -> Layer:
    members = [{"name": name, "content": content.decode()} for name, content in _MEMBERS.items()]
    return oras_directory("packed", tar(members))


_LARGE = random.Random(0).randbytes(40 * _MIB)  # noqa: S311 (bytes that no compression makes small)
_PLAIN = {"x": b"right", "y": b"other", "z": b"third"}
ARTIFACTS = {
    "plain": Artifact(layers=files(**_PLAIN), shown=_PLAIN),
    "large": Artifact(layers=files(model=_LARGE), shown={"model": _LARGE}),
    "packed": Artifact(layers=[_packed(), *files(x=b"right")], shown={**_MEMBERS, "x": b"right"}),
}


class Node:
    """A driver that dies and comes back, and one volume."""

    def __init__(self, driver: Driver, artifact: Artifact, reference: str, log: AccessLog) -> None:
        self.driver = driver
        self.log = log
        self.outside = Outside(driver.state)
        self.target = driver.target()
        self._artifact = artifact
        self._reference = reference

    def start(self, point: str = "", count: int = 1) -> None:
        self.driver.runner = dying(point, count) if point else ()
        self.driver.start()

    def publish(self) -> None:
        self.driver.publish(self.target, reference=self._reference)

    def died(self) -> None:
        assert self.driver.process
        assert self.driver.process.wait(30) == -signal.SIGKILL
        self.driver.stop()
        self.outside.check()

    def store(self, *command: str, runner: tuple[str, ...] = ()) -> int:
        """Run a command on the store, beside the driver."""
        policy = self.driver.directory / "policy.yaml"
        policy.write_text("store: {minAge: 0s}\n")
        options = ["--state-dir", str(self.driver.state), "--config", str(policy)]
        program = [*runner, sys.executable, "-m", "csi_oras", "store"]
        return subprocess.run([*program, *command, *options], check=False, timeout=60, capture_output=True).returncode

    @property
    def mounts(self) -> int:
        return self.driver.mounts().count(str(self.target))

    def check_shown(self) -> None:
        assert self.mounts == 1
        assert contents(self.target) == self._artifact.shown
        assert is_read_only(self.target)

    def check_gone(self) -> None:
        """See to it that after an unpublish nothing is left but what the store keeps for the next."""
        assert self.mounts == 0
        assert not self.target.exists()
        assert self.outside.unfinished() == []
        for table in ("volumes", "leases", "holders"):
            assert self.outside.rows(table) == []
        self.outside.check()


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    driver = Driver(short_path)
    yield driver
    driver.stop()
    driver.unmount_all()


@pytest.fixture
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return ARTIFACTS[getattr(request, "param", "plain")]


@pytest.fixture
def node(driver: Driver, artifact: Artifact, registry: Distribution, pusher: Pusher, repository: str) -> Node:
    return Node(driver, artifact, pusher.artifact(repository, artifact.layers), AccessLog(registry, repository))


@pytest.mark.parametrize(
    ("artifact", "point", "count"),
    [
        ("plain", "intent recorded", 1),
        ("large", "piece written", 1),
        ("large", "extent kept", 2),
        ("plain", "grant recorded", 1),
        ("plain", "blob renamed", 1),
        ("plain", "blob renamed", 3),
        ("packed", "member unpacked", 5),
        ("packed", "object visible", 5),
        ("packed", "file laid out", 5),
        ("plain", "file laid out", 2),
        ("packed", "tree renamed", 1),
        ("plain", "artifact catalogued", 1),
        ("plain", "volume recorded", 1),
        ("plain", "target made", 1),
        ("plain", "mounted", 1),
    ],
    indirect=["artifact"],
)
def test_publish_that_is_killed_shows_nothing_untrue_and_goes_on(
    node: Node, artifact: Artifact, point: str, count: int
) -> None:
    node.start(point, count)
    with refused(grpc.StatusCode.UNAVAILABLE):
        node.publish()
    node.died()
    visible = node.outside.blobs()
    assert node.mounts == (1 if point == "mounted" else 0)
    if node.mounts:
        node.check_shown()
    node.start()
    node.publish()
    node.check_shown()
    for layer in artifact.layers:
        if (digest := sha256(layer.content)) in visible:
            assert len(node.log.gets(digest)) == 1
    node.driver.unpublish(node.target)
    node.driver.stop()
    node.check_gone()


@pytest.mark.parametrize("artifact", ["large"], indirect=True)
def test_pull_that_is_killed_goes_on_from_its_extents(node: Node, artifact: Artifact) -> None:
    node.start("extent kept", 6)
    with refused(grpc.StatusCode.UNAVAILABLE):
        node.publish()
    node.died()
    (extents,) = (node.outside.state / "ingest").glob("*.extents")
    kept = sum(int(end) - int(start) for start, end in map(str.split, extents.read_text().splitlines()))
    assert kept > 0
    log, digest = node.log, sha256(artifact.layers[0].content)
    before = sum(request.sent for request in log.gets(digest))
    node.start()
    node.publish()
    node.check_shown()
    node.driver.unpublish(node.target)
    node.driver.stop()
    asked = sum(request.sent for request in log.gets(digest)) - before
    assert asked <= len(_LARGE) - kept + 8 * _MIB  # what the dead driver had asked for is logged late
    node.check_gone()


@pytest.mark.parametrize("point", ["unmounted", "target removed", "record dropped"])
def test_unpublish_that_is_killed_is_finished_by_the_next(node: Node, point: str) -> None:
    node.start(point)
    node.publish()
    with refused(grpc.StatusCode.UNAVAILABLE):
        node.driver.unpublish(node.target)
    node.died()
    assert node.mounts == 0
    node.start()
    node.driver.unpublish(node.target)
    node.driver.unpublish(node.target)  # and once more, as a kubelet does that did not hear the answer
    node.driver.stop()
    node.check_gone()


def test_volume_whose_unpublish_was_killed_can_be_published_again(node: Node) -> None:
    node.start("unmounted")
    node.publish()
    with refused(grpc.StatusCode.UNAVAILABLE):
        node.driver.unpublish(node.target)
    node.died()
    node.start()
    node.publish()
    node.check_shown()
    node.driver.unpublish(node.target)
    node.driver.stop()
    node.check_gone()


@pytest.mark.parametrize(("point", "count"), [("table made", 1), ("table made", 5), ("schema named", 1)])
def test_migration_that_is_killed_is_done_by_the_next_start(tmp_path: Path, point: str, count: int) -> None:
    outside = Outside(tmp_path)
    database = Database(tmp_path / "state.db")
    database.query("INSERT INTO tags VALUES ('reg.example/a', 'v1', 'sha256:0')")
    for table in ("holders", "contents", "wishes", "passes"):  # back to what the release before wrote
        database.query(f"DROP TABLE {table}")
    database.query("PRAGMA user_version = 3")
    database.close()
    command = [*dying(point, count), sys.executable, "-m", "csi_oras", "store", "ls", "--state-dir", str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert outside.rows("pragma_user_version()") == [(3,)]
    assert outside.rows("tags") == [("reg.example/a", "v1", "sha256:0")]
    Database(tmp_path / "state.db").close()
    assert outside.rows("pragma_user_version()") != [(3,)]
    assert outside.rows("tags") == [("reg.example/a", "v1", "sha256:0")]
    for table in ("holders", "contents", "wishes", "passes"):
        assert outside.rows(table) == []


def test_node_that_reboots_forgets_mounts_and_keeps_the_store(node: Node, artifact: Artifact) -> None:
    node.start()
    node.publish()
    node.driver.kill()
    node.driver.unmount_all()  # which is all that a reboot changes here
    node.start()
    wait_for(lambda: node.outside.rows("volumes") == [])
    assert node.outside.rows("leases") == []
    node.publish()
    node.check_shown()
    for layer in artifact.layers:
        assert len(node.log.gets(sha256(layer.content))) == 1
    node.driver.unpublish(node.target)
    node.driver.stop()
    node.check_gone()


@pytest.mark.parametrize("artifact", ["packed"], indirect=True)
@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("artifact forgotten", 1),
        ("moved away", 1),
        ("moved away is gone", 1),
        ("moved away", 3),
        ("moved away is gone", 2),
        ("unpacked file removed", 5),
    ],
)
def test_collection_that_is_killed_takes_nothing_that_is_shown_and_is_finished_by_the_next(
    node: Node, pusher: Pusher, repository: str, point: str, count: int
) -> None:
    kept = node.driver.target("kept", pod="kept")
    node.start()
    node.driver.publish(kept, volume_id="kept", reference=pusher.artifact(repository, files(x=b"right"), tag="kept"))
    node.publish()
    node.driver.unpublish(node.target)
    assert node.store("gc", "--all", runner=dying(point, count)) == -signal.SIGKILL
    node.outside.check()
    assert contents(kept) == {"x": b"right"}
    node.publish()
    node.check_shown()
    node.driver.unpublish(node.target)
    assert node.store("gc", "--all") == 0
    assert len(node.outside.rows("artifacts")) == 1  # the one that is shown
    assert contents(kept) == {"x": b"right"}
    node.driver.unpublish(kept, volume_id="kept")
    node.driver.stop()
    assert node.store("gc", "--all") == 0
    assert node.outside.files() == []
    for table in ("volumes", "leases", "holders", "artifacts", "plans", "contents", "tags", "grants"):
        assert node.outside.rows(table) == []


@pytest.mark.parametrize("count", [1, 2], ids=["blob", "tree"])
def test_quarantine_that_is_killed_is_finished_by_the_next_start(node: Node, artifact: Artifact, count: int) -> None:
    node.start()
    node.publish()
    node.driver.kill()
    (rotten,) = (node.outside.state / "blobs").rglob(sha256(artifact.shown["x"]).partition(":")[2])
    rot(rotten)
    assert node.store("verify", runner=dying("quarantined", count)) == -signal.SIGKILL
    node.outside.check()
    assert node.mounts == 1  # a pod shows it, and only its end ends that
    node.start()
    node.driver.unpublish(node.target)
    node.publish()
    node.check_shown()
    node.driver.unpublish(node.target)
    node.driver.stop()
    node.check_gone()
