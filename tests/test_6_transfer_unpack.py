"""Unpacking in a driver that is killed, on a disk that is full, and twice at once."""

import io
import os
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.kinds import compressed
from tests.support.kinds_archives import oras_directory
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.needs("root", "registry")
_MIB = 1 << 20


@pytest.fixture
def disk(short_path: Path) -> Iterator[SmallDisk]:
    with small_disk(short_path / "state", "40m") as found:
        yield found


def packed(files: int, size: int, content: bytes = b"") -> tuple[Layer, bytes]:
    """A directory of many files, and the bytes that begin each of them."""
    buffer, start = io.BytesIO(), content or os.urandom(16)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(files):
            info = tarfile.TarInfo(f"data/{number % 10}/{number}")
            info.size = size
            body = start + number.to_bytes(4, "big")
            archive.addfile(info, io.BytesIO(body + bytes(size - len(body))))
    return oras_directory("data", buffer.getvalue()), start


def staged(driver: Driver) -> list[Path]:
    """What is in the making."""
    return [path for path in (driver.state / "staging").rglob("*") if path.is_file()]


def test_kill_in_the_middle_of_unpacking_leaves_nothing_and_the_retry_has_all(
    short_path: Path, pusher: Pusher, repository: str
) -> None:
    layer, start = packed(4000, 2000)
    reference = pusher.artifact(repository, [layer])
    driver = Driver(short_path)
    with driver, ThreadPoolExecutor(1) as background:
        target = driver.target()
        call = background.submit(driver.publish, target, reference=reference)
        deadline = time.monotonic() + 30
        while len(staged(driver)) < 100:
            assert time.monotonic() < deadline
            assert not call.done()
        driver.kill()
        assert isinstance(call.exception(), grpc.RpcError)
        assert list((driver.state / "trees").iterdir()) == []
        driver.start()
        driver.publish(target, reference=reference)
        assert len(list(target.glob("data/*/*"))) == 4000
        assert (target / "data/7/1237").read_bytes().startswith(start + (1237).to_bytes(4, "big"))
        assert list((driver.state / "staging").iterdir()) == []
        driver.unpublish(target)


def test_disk_that_fills_while_unpacking_is_said_and_heals(
    short_path: Path, pusher: Pusher, repository: str, disk: SmallDisk
) -> None:
    layer, _ = packed(300, 200_000)  # 60 MB of it, on 40
    reference = pusher.artifact(repository, [layer])
    with Driver(short_path) as driver:
        target = driver.target()
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"):
            driver.publish(target, reference=reference)
        assert list((driver.state / "staging").iterdir()) == []
        assert list((driver.state / "objects/sha256").iterdir()) == []
        assert not target.exists()
        disk.grow("200m")
        driver.publish(target, reference=reference)
        assert len(list(target.glob("data/*/*"))) == 300
        driver.unpublish(target)


def test_same_archive_for_two_volumes_at_once_is_one_tree(short_path: Path, pusher: Pusher, repository: str) -> None:
    layer, start = packed(500, 3000)
    titled = Layer(content=compressed(b"x", "gzip"), title="other")
    references = [pusher.artifact(repository, [layer], tag="a"), pusher.artifact(repository, [layer, titled], tag="b")]
    with Driver(short_path) as driver, ThreadPoolExecutor(4) as background:
        targets = [driver.target(f"pod-{number}") for number in range(4)]
        calls = [
            background.submit(driver.publish, target, volume_id=f"v{number}", reference=references[number % 2])
            for number, target in enumerate(targets)
        ]
        for call in calls:
            call.result()
        inodes = {(target / "data/1/11").stat().st_ino for target in targets}
        assert len(inodes) == 1
        assert (targets[0] / "data/1/11").read_bytes().startswith(start)
        assert len(list((driver.state / "trees").iterdir())) == 2
        for number, target in enumerate(targets):
            driver.unpublish(target, volume_id=f"v{number}")
