"""Staging of processes that were killed, and of those that live and work beside each other."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from csi_oras.store.paths import StatePaths
from csi_oras.store.staging import staging
from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.small_disk import small_disk

_MIB = 1 << 20
_MAKER = """
import sys
from pathlib import Path
from csi_oras.store.paths import StatePaths
from csi_oras.store.staging import staging
with staging(StatePaths.create(Path(sys.argv[1]))) as directory:
    (directory / "tree").mkdir()
    (directory / "tree" / "half").write_text("of an artifact")
    (directory / "tree").chmod(0o555)
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@contextmanager
def process(paths: StatePaths) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another process that is in the middle of making something, and where."""
    command = [sys.executable, "-c", _MAKER, str(paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout
        yield maker, Path(maker.stdout.readline().strip())
        maker.kill()


def test_staging_removes_what_a_killed_process_left_and_nothing_of_the_living(paths: StatePaths) -> None:
    with process(paths) as (dead, left), process(paths) as (_, kept), staging(paths) as ours:
        dead.kill()
        dead.wait(30)
        assert (left / "tree" / "half").exists()
        with staging(paths) as another:
            assert set(paths.staging.iterdir()) == {kept, ours, another}
        assert (kept / "tree" / "half").read_text() == "of an artifact"


def test_stagings_made_at_once_are_all_there_to_their_ends(paths: StatePaths) -> None:
    """A new one that is not locked yet may look dead to another's sweep."""

    def make(number: int) -> None:
        for _ in range(50):
            with staging(paths) as directory:
                file = directory / "file"
                file.write_text(str(number))
                (directory / "directory").mkdir()
                assert file.read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(make, number) for number in range(8)]:
            call.result(60)
    assert list(paths.staging.iterdir()) == []


@pytest.mark.needs("root", "registry")
def test_pull_that_lacks_room_takes_it_from_what_a_killed_process_left(
    short_path: Path, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, [Layer(content=bytes(20 * _MIB), title="large")])
    with small_disk(short_path / "state", "66m"), Driver(short_path) as driver:
        paths, target = StatePaths.create(driver.state), driver.target()
        with process(paths) as (maker, left):
            (left / "large").write_bytes(bytes(25 * _MIB))
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reference, "make room"):
                driver.publish(target, reference=reference)
            maker.kill()
        driver.publish(target, reference=reference)
        assert list(paths.staging.iterdir()) == []
        driver.unpublish(target)
