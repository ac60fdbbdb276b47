"""Collection through the driver: it makes room, never takes what a pod sees, and says no before the first byte."""

import fcntl
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.gate import Gate
from tests.support.pods import wait_for
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.unpacking import directory, reg, tar

pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20
UNPACK = "io.deis.oras.content.unpack"


def config(directory: Path, store: str) -> tuple[str, str]:
    """The flag for a policy file with these settings of the store."""
    path = directory / "policy.yaml"
    path.write_text(f"store: {{{store}}}\n")
    return ("--config", str(path))


def gc(driver: Driver, *flags: str) -> Any:
    """What `store gc --json` prints beside the driver."""
    command = [
        sys.executable, "-m", "csi_oras", "store", "gc", "--state-dir", str(driver.state), *driver.flags, *flags,
        "--json",
    ]  # fmt: skip
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def collecting(short_path: Path) -> Iterator[Driver]:
    """A driver whose store may have 28 MiB, of which nothing is spared for being young."""
    with Driver(short_path, *config(short_path, "maxBytes: 28Mi, minAge: 0s")) as running:
        yield running


def push(pusher: Pusher, repository: str, name: str, mib: int) -> str:
    return pusher.artifact(f"{repository}-{name}", [Layer(content=os.urandom(mib * _MIB), title=name)])


def test_pull_takes_the_room_of_what_nobody_uses_and_nothing_of_what_a_pod_sees(
    collecting: Driver, pusher: Pusher, repository: str
) -> None:
    seen, unused, wanted = (push(pusher, repository, name, 10) for name in ("seen", "unused", "wanted"))
    targets = {name: collecting.target(name) for name in ("seen", "unused", "wanted")}
    collecting.publish(targets["seen"], volume_id="seen", reference=seen)
    before = (targets["seen"] / "seen").read_bytes()
    collecting.publish(targets["unused"], volume_id="unused", reference=unused)
    collecting.unpublish(targets["unused"], volume_id="unused")
    collecting.publish(targets["wanted"], volume_id="wanted", reference=wanted)
    assert (targets["seen"] / "seen").read_bytes() == before
    assert collecting.metrics()["csi_oras_collected_artifacts_total"] == 1
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, unused, "needs 10.5 MB", "store.maxBytes"):
        collecting.publish(targets["unused"], volume_id="unused", reference=unused)
    assert not targets["unused"].exists()
    for name in ("seen", "wanted"):
        collecting.unpublish(targets[name], volume_id=name)
    collecting.publish(targets["unused"], volume_id="unused", reference=unused)  # and heals by itself
    collecting.unpublish(targets["unused"], volume_id="unused")


def test_artifact_without_room_is_refused_before_its_first_byte(
    collecting: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    reference = push(pusher, repository, "large", 40)
    with Gate(registry.address) as gate:
        through = reference.replace(registry.address, gate.address)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "needs 41.9 MB"):
            collecting.publish(collecting.target(), reference=through)
    assert collecting.metrics()["csi_oras_pull_bytes_total"] == 0
    assert not any((collecting.state / "ingest").iterdir())


def test_command_beside_the_driver_takes_what_nobody_uses_and_explains_the_rest(
    collecting: Driver, pusher: Pusher, repository: str
) -> None:
    seen, unused = (push(pusher, repository, name, 1) for name in ("seen", "unused"))
    target = collecting.target("seen")
    collecting.publish(target, volume_id="seen", reference=seen)
    collecting.publish(collecting.target("unused"), volume_id="unused", reference=unused)
    collecting.unpublish(collecting.target("unused"), volume_id="unused")
    foretold = gc(collecting, "--all", "--dry-run")
    assert gc(collecting, "--all") == foretold
    assert [entry["kind"] for entry in foretold["removed"]] == ["artifact"]
    assert foretold["freedBytes"] >= _MIB
    assert [entry["reason"] for entry in foretold["kept"]] == ["shown by 1 volume"]
    assert (target / "seen").stat().st_size == _MIB
    collecting.unpublish(target, volume_id="seen")
    gc(collecting, "--all")
    left = [path for path in collecting.state.rglob("*") if path.is_file() and path.parent != collecting.state]
    assert left == []


def test_what_a_pull_under_way_has_is_not_collected(
    collecting: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    contents = {name: os.urandom(_MIB) for name in ("a", "b")}
    reference = pusher.artifact(repository, [Layer(content=content, title=name) for name, content in contents.items()])
    target = collecting.target()
    with Gate(registry.address) as gate:
        gate.hold_after(_MIB + _MIB // 2)
        through = reference.replace(registry.address, gate.address)
        with refused(grpc.StatusCode.ABORTED, "pulling"):
            collecting.publish(target, timeout=3, reference=through)
        gate.wait_until_held()
        collected = gc(collecting, "--all")
        assert collected["removed"] == []
        assert {entry["reason"] for entry in collected["kept"]} == {"a pull is under way"}
        gate.open()
        collecting.publish(target, reference=through)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == contents
    collecting.unpublish(target)


def test_mount_whose_record_was_lost_is_not_collected(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = push(pusher, repository, "seen", 1)
    flags = config(short_path, "minAge: 0s")
    with Driver(short_path, *flags) as driver:
        target = driver.target()
        driver.publish(target, reference=reference)
        driver.kill()
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            (driver.state / name).unlink(missing_ok=True)
        before = (target / "seen").read_bytes()
        collected = gc(driver, "--all")
        assert "shown by a mount" in {entry["reason"] for entry in collected["kept"]}
        assert (target / "seen").read_bytes() == before
        driver.start()
        driver.unpublish(target)
        gc(driver, "--all")
        assert not any((driver.state / "trees").iterdir())


def test_unpacking_that_needs_more_than_there_is_makes_room_and_goes_on(
    short_path: Path, pusher: Pusher, repository: str
) -> None:
    content = os.urandom(20 * _MIB)
    packed = gzip.compress(tar(directory("data"), reg("data/file", content)), 1)
    layer = Layer(content=packed, title="data", annotations={UNPACK: "true"})
    archive = pusher.artifact(f"{repository}-archive", [layer])
    unused = push(pusher, repository, "unused", 14)
    with small_disk(short_path / "state", "96m"), Driver(short_path, *config(short_path, "minAge: 0s")) as driver:
        target = driver.target()
        driver.publish(target, reference=unused)
        driver.unpublish(target)
        blocker = driver.state / "somebody-elses"
        blocker.write_bytes(bytes(28 * _MIB))
        driver.publish(target, reference=archive)
        assert (target / "data/file").read_bytes() == content
        driver.unpublish(target)


@pytest.fixture
def disk(short_path: Path) -> Iterator[SmallDisk]:
    with small_disk(short_path / "state", "64m") as found:
        yield found


def test_disk_that_others_keep_full_breaks_no_volume_and_keeps_no_local_artifact_from_a_pod(
    disk: SmallDisk, short_path: Path, pusher: Pusher, repository: str
) -> None:
    reference = push(pusher, repository, "seen", 4)
    with Driver(short_path, *config(short_path, "minAge: 0s")) as driver:
        wait_for((driver.state / "reserve").exists)  # it is taken after the start, with the first tidying
        first, second = driver.target("first"), driver.target("second")
        driver.publish(first, volume_id="first", reference=reference)
        content = (first / "seen").read_bytes()
        for _ in range(12):
            disk.fill()
            driver.publish(second, volume_id="second", reference=reference)
            assert (second / "seen").read_bytes() == (first / "seen").read_bytes() == content
            driver.unpublish(second, volume_id="second")
            assert not second.exists()
        driver.unpublish(first, volume_id="first")
        other = push(pusher, repository, "other", 1)
        disk.clear()
        driver.publish(first, volume_id="first", reference=other)
        driver.unpublish(first, volume_id="first")


def test_store_that_uses_up_the_inodes_gives_them_back(short_path: Path, pusher: Pusher, repository: str) -> None:
    references = []
    for number in range(4):
        members = [reg(f"data/{number}-{file}", b"%d %d" % (number, file)) for file in range(130)]
        layer = Layer(content=gzip.compress(tar(*members)), title="data", annotations={UNPACK: "true"})
        references.append(pusher.artifact(f"{repository}-{number}", [layer]))
    with small_disk(short_path / "state", "128m") as disk:
        disk.limit_inodes(450)
        with Driver(short_path, *config(short_path, "minAge: 0s")) as driver:
            target = driver.target()
            for reference in references:
                driver.publish(target, reference=reference)
                assert len(list((target / "data").iterdir())) == 130
                driver.unpublish(target)


def test_collection_needs_no_inode(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = push(pusher, repository, "unused", 1)
    with small_disk(short_path / "state", "128m") as disk:
        disk.limit_inodes(200)
        with Driver(short_path, *config(short_path, "minAge: 0s")) as driver:
            target = driver.target()
            driver.publish(target, reference=reference)
            driver.unpublish(target)
            made = list(filter(None, (_touch(driver.state / f"inode-{number}") for number in range(300))))
            assert len(made) < 300
            assert gc(driver, "--all")["freedBytes"] >= _MIB
            assert not any((driver.state / "trees").iterdir())


def test_what_is_none_of_the_store_stays_and_stops_no_collection(
    collecting: Driver, pusher: Pusher, repository: str
) -> None:
    reference = push(pusher, repository, "unused", 1)
    strays = ("trees/lost+found/", "trees/" + "a" * 64, "blobs/README", "blobs/sha256/x", "objects/sha256/README")
    for stray in strays:
        path = collecting.state / stray
        path.mkdir() if stray.endswith("/") else path.touch()
    collecting.publish(collecting.target(), reference=reference)
    collecting.unpublish(collecting.target())
    assert len(gc(collecting, "--all")["removed"]) == 1
    assert [stray for stray in strays if not (collecting.state / stray).exists()] == []


def test_link_and_fifo_that_somebody_left_in_the_store_are_never_followed_nor_waited_for(
    collecting: Driver, short_path: Path, pusher: Pusher, repository: str
) -> None:
    canary = short_path / "canary"
    (canary / "below").mkdir(parents=True)
    canary.chmod(0o755)
    (canary / "below").chmod(0o755)
    (collecting.state / "staging/link").symlink_to(canary)
    (collecting.state / "removed/link").symlink_to(canary)
    os.mkfifo(collecting.state / "ingest" / ("a" * 64))
    reference = push(pusher, repository, "unused", 1)
    collecting.publish(collecting.target(), reference=reference)
    collecting.unpublish(collecting.target())
    assert len(gc(collecting, "--all")["removed"]) == 1
    assert [path.stat().st_mode & 0o777 for path in (canary, canary / "below")] == [0o755, 0o755]


def test_disk_without_inodes_is_resource_exhausted_and_heals(short_path: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"small", title="small")])
    state = short_path / "state"
    with small_disk(state, "64m") as disk:
        disk.limit_inodes(200)
        with Driver(short_path, *config(short_path, "minAge: 0s")) as driver:
            files = [state / f"inode-{number}" for number in range(300)]
            made = list(filter(None, map(_touch, files)))
            target = driver.target()
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "inodes"):
                driver.publish(target, reference=reference)
            assert not target.exists()
            for path in made:
                path.unlink()
            driver.publish(target, reference=reference)
            assert (target / "small").read_bytes() == b"small"
            driver.unpublish(target)


def _touch(path: Path) -> Path | None:
    try:
        path.touch()
    except OSError:
        return None
    return path


def test_pull_that_waits_for_a_collection_holds_up_none_that_has_room(
    collecting: Driver, pusher: Pusher, repository: str
) -> None:
    unused, large, small = (push(pusher, repository, name, mib) for name, mib in (("a", 16), ("b", 20), ("c", 1)))
    collecting.publish(collecting.target(), reference=unused)
    collecting.unpublish(collecting.target())
    lock = os.open(collecting.state / "staging", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a command that collects for minutes
        waiting, quick = collecting.target("waiting"), collecting.target("quick")
        with refused(grpc.StatusCode.ABORTED, "pulling"):
            collecting.publish(waiting, volume_id="waiting", timeout=5, reference=large)
        collecting.publish(quick, volume_id="quick", reference=small, include="c")
        assert (quick / "c").stat().st_size == _MIB
    finally:
        os.close(lock)
    collecting.publish(waiting, volume_id="waiting", reference=large)
    for target, volume_id in ((waiting, "waiting"), (quick, "quick")):
        collecting.unpublish(target, volume_id=volume_id)
