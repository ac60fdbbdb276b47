"""A second driver on one state directory: it would take the first one's mounts for gone, and drop their records."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.artifacts import Pusher, files
from tests.support.driver import Driver
from tests.support.outside import Outside
from tests.support.pods import wait_for

pytestmark = pytest.mark.needs("root", "registry")


def _second(first: Driver, *flags: str) -> list[str]:
    """A driver that has only the state directory in common with the first one."""
    elsewhere = first.directory / "elsewhere"
    elsewhere.mkdir()
    return [
        sys.executable, "-m", "csi_oras", "serve", "--endpoint", f"unix://{elsewhere}/csi.sock", "--node-id", "node-2",
        "--state-dir", str(first.state), "--kubelet-dir", str(elsewhere), "--metrics-address", "127.0.0.1:0", *flags,
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["node", "all"])
def test_second_driver_on_a_state_directory_ends_at_once_and_says_why(
    driver: Driver, pusher: Pusher, repository: str, mode: str
) -> None:
    reference = pusher.artifact(repository, files(x=b"right"))
    driver.publish(driver.target(), reference=reference)
    said = subprocess.run(_second(driver, "--mode", mode), capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1] == (
        f"csi-oras: state directory {driver.state}: is in use by another driver, and neither knows of the other's"
        " mounts; stop that one, or give this one a --state-dir of its own"
    )
    assert len(Outside(driver.state).rows("volumes")) == 1
    driver.unpublish(driver.target())


def test_driver_that_was_killed_hinders_no_start(driver: Driver) -> None:
    for _ in range(2):
        driver.kill()
        driver.start()


def test_driver_waits_for_the_one_before_it_to_end(driver: Driver, short_path: Path) -> None:
    second = Driver(short_path / "next")
    second.state.symlink_to(driver.state)
    with ThreadPoolExecutor(1) as pool:
        try:
            starting = pool.submit(second.start)
            wait_for(lambda: "waits for another driver to end" in second.log)
            driver.stop()
            starting.result(60)
        finally:
            second.stop()
