"""A store on a file system that takes no more writes, as ext4 does after an error: nothing ends in a traceback."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver
from tests.support.loop_disk import loop_disk

pytestmark = pytest.mark.needs("root", "registry")
_LOOKS = [("ls",), ("du",), ("verify",), ("gc", "--dry-run"), ("gc", "--all", "--dry-run"), ("prefetch",)]


def _run(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _abort(directory: Path) -> None:
    subprocess.run(["mount", "-o", "remount,abort", directory], check=True)


@pytest.fixture
def disk(short_path: Path) -> Iterator[Path]:
    """An ext4 of its own, on which the state directory of a driver stands."""
    state = short_path / "state"
    with loop_disk(state, "mkfs.ext4", "-q"):
        yield state


@pytest.fixture
def reference(disk: Path, pusher: Pusher, repository: str) -> str:
    reference = pusher.artifact(repository, files(x=b"right"))
    assert _run(disk, "pull", reference).returncode == 0
    return reference


@pytest.fixture(params=["ended", "running"])
def broken(request: pytest.FixtureRequest, short_path: Path, disk: Path, reference: str) -> Iterator[str]:
    """A reference in a store that can be read only, with a driver that still has it open, and without one."""
    if request.param == "ended":
        _abort(disk)
        yield reference
        return
    with Driver(short_path) as driver:
        driver.publish(driver.target(), reference=reference)
        _abort(disk)
        yield reference


def test_look_at_a_store_that_is_read_only_shows_it_and_says_so(disk: Path, broken: str) -> None:
    documents = {arguments: _look(disk, *arguments) for arguments in _LOOKS}
    assert [row["references"] for row in documents["ls",]] == [[broken]]
    verified = documents["verify",]
    assert (verified["checked"], verified["corrupt"]) == (2, [])


def _look(state: Path, *arguments: str) -> Any:
    said = _run(state, "store", *arguments, "--json")
    assert said.returncode == 0, said.stderr
    assert said.stderr.count("\n") == 1
    assert "the store can only be looked at" in said.stderr
    return json.loads(said.stdout)


@pytest.mark.usefixtures("broken")
def test_command_that_writes_to_a_store_that_is_read_only_says_so_in_a_sentence(disk: Path) -> None:
    for arguments in (("store", "gc"), ("pull", "127.0.0.1:1/a:v1")):
        said = _run(disk, *arguments)
        assert said.returncode == 1
        assert said.stderr.startswith("csi-oras: ")
        assert said.stderr.count("\n") == 1
        assert "read-only" in said.stderr.lower()


def test_driver_does_not_start_on_a_store_that_is_read_only(short_path: Path, disk: Path, reference: str) -> None:
    assert reference
    _abort(disk)
    with pytest.raises(AssertionError, match=r"csi-oras: .*[Rr]ead-only") as raised, Driver(short_path):
        pass
    assert "Traceback" not in str(raised.value)


def test_unpublish_on_a_store_that_became_read_only_succeeds_and_again(
    short_path: Path, disk: Path, reference: str
) -> None:
    with Driver(short_path) as driver:
        driver.publish(driver.target(), reference=reference)
        _abort(disk)
        for _ in range(2):
            driver.unpublish(driver.target())
            assert not driver.target().exists()
        assert driver.mounts() == []
        assert "the record of a volume stays until the next start" in driver.log
