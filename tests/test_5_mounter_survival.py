"""Whoever is killed, nobody who reads notices more than a pause: no error, no wrong byte."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from csi_oras.errors import StoreBrokenError
from csi_oras.mounter.client import Mounter
from tests.support.fuse_readers import Readers
from tests.support.mounting import HoldingDriver, MortalDriver, RunningMounter, eventually, name_of

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(170)]
CONTENTS = [random.Random(seed).randbytes(size) for seed, size in enumerate((3_000_000, 5_234_567))]  # noqa: S311 (any bytes)
KILLS = 4
_WELL_SECONDS = 1.05
"""Who has lived for so long is begun again without a pause."""


@pytest.fixture
def mounter(short_path: Path) -> Iterator[RunningMounter]:
    (short_path / "truth").mkdir()
    for number, content in enumerate(CONTENTS):
        (short_path / "truth" / str(number)).write_bytes(content)
    with RunningMounter(short_path) as running:
        yield running


@pytest.fixture
def driver(mounter: RunningMounter) -> Iterator[HoldingDriver]:
    with HoldingDriver(mounter.directory) as holding:
        for number, content in enumerate(CONTENTS):
            holding.add(number, content)
            holding.mount(number)
        yield holding


@pytest.fixture
def mortal(mounter: RunningMounter) -> Iterator[MortalDriver]:
    with MortalDriver(mounter.directory, len(CONTENTS)) as running:
        yield running


def readers(directory: Path) -> Readers:
    numbers = range(len(CONTENTS))
    return Readers({directory / "kubelet" / str(n) / "file": directory / "truth" / str(n) for n in numbers})


def wait_for_readers(driver: HoldingDriver) -> None:
    """Return when somebody waits for bytes; nobody gets any."""
    driver.files.wait_for("need", len(driver.files.messages("need")) + 1)


def wait_for_pass(reading: Readers) -> None:
    """Return when a file has been read."""
    before = reading.passes
    eventually(lambda: reading.passes > before, "nothing is read")


def kill_processes(mounter: RunningMounter) -> None:
    for process in mounter.client.processes().values():
        if process.pid:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def test_processes_that_are_killed_while_they_are_read_cost_a_pause(
    mounter: RunningMounter, driver: HoldingDriver
) -> None:
    driver.files.goes_on.clear()
    with readers(mounter.directory) as reading:
        wait_for_readers(driver)
        for kill in range(KILLS):
            time.sleep(_WELL_SECONDS)
            if kill % 4 == 3:
                driver.files.goes_on.set()
                wait_for_pass(reading)
                driver.files.goes_on.clear()
            kill_processes(mounter)
            wait_for_readers(driver)
        driver.files.goes_on.set()
    assert not reading.failures
    assert reading.passes > KILLS
    assert all(process.restarts >= KILLS for process in mounter.client.processes().values())


def test_mounter_that_is_killed_while_it_is_read_costs_a_pause(mounter: RunningMounter, driver: HoldingDriver) -> None:
    driver.accompany()
    driver.files.goes_on.clear()
    with readers(mounter.directory) as reading:
        wait_for_readers(driver)
        for kill in range(KILLS):
            if kill % 4 == 3:
                driver.files.goes_on.set()
                wait_for_pass(reading)
                driver.files.goes_on.clear()
            mounter.kill()
            mounter.start()
            wait_for_readers(driver)
        driver.files.goes_on.set()
    assert not reading.failures
    assert reading.passes > KILLS


def test_driver_that_is_killed_while_it_is_read_takes_over_from_the_mounter(
    mounter: RunningMounter, mortal: MortalDriver
) -> None:
    before = mounter.client.processes()
    with readers(mounter.directory) as reading:
        for _ in range(KILLS):
            wait_for_pass(reading)
            mortal.kill()
            mortal.start()
    assert not reading.failures
    assert mounter.client.processes() == before  # they have noticed nothing


def test_all_are_killed_in_turn(mounter: RunningMounter, mortal: MortalDriver) -> None:
    """Each time the only ones that live have what the next one needs."""
    with readers(mounter.directory) as reading:
        for _ in range(4):
            mortal.kill()
            kill_processes(mounter)  # their successors know nothing, and have nobody to ask
            mortal.start()
            mounter.kill()
            mounter.start()
            eventually(lambda: len(mounter.client.processes()) == len(CONTENTS), "the mounter is told nothing")
            wait_for_pass(reading)
    assert not reading.failures


def test_readers_wait_while_neither_mounter_nor_process_is_there(
    mounter: RunningMounter, driver: HoldingDriver
) -> None:
    mounter.kill()
    with readers(mounter.directory) as reading:
        time.sleep(1)
        assert (reading.passes, reading.failures) == (0, [])
        mounter.start()
        driver.meet()
        eventually(lambda: reading.passes, "nothing is read")
    assert not reading.failures


START = """
import sys, time
from pathlib import Path
from csi_oras.mounter.client import Mounter
from tests.support.fuse_readers import Readers
from tests.support.mounting import HoldingDriver
directory = Path(sys.argv[1])
Mounter.start_detached(directory / "mounter.sock", directory / "state")
with HoldingDriver(directory) as driver:
    if sys.argv[2:]:
        driver.add(1, b"content")
        driver.mount(1)
    print("ready", flush=True)
    time.sleep(100)
"""


def start_driver(directory: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", START, str(directory), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout
    with process.stdout as said:
        assert said.readline() == b"ready\n"
    return process


def mounters_of(directory: Path) -> list[int]:
    """Return the mounters that listen in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text().split("\0")
            if f"unix://{directory}/mounter.sock" in command:
                found.append(int(process.name))
    return found


def end(pid: int) -> None:
    """Kill a mounter, and return when nobody can connect to it any more, which is after its command line has gone."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it is not gone")


@pytest.fixture
def no_mounter(short_path: Path) -> Iterator[RunningMounter]:
    """What ends whatever mounter is started."""
    running = RunningMounter(short_path)
    running.state.mkdir()
    yield running
    running.abort()
    for pid in mounters_of(short_path):
        os.kill(pid, signal.SIGKILL)


def test_mounter_that_a_driver_has_started_outlives_it_and_is_found_again(
    no_mounter: RunningMounter, short_path: Path
) -> None:
    for arguments in (["mount"], []):
        driver = start_driver(short_path, *arguments)
        processes = no_mounter.client.processes()
        driver.kill()
        driver.wait()
        assert processes.keys() == {name_of(1)}
        assert no_mounter.client.processes() == processes
    (pid,) = set(mounters_of(short_path)) - {process.pid for process in processes.values()}
    assert os.getsid(pid) == pid
    assert "holds lazy volumes" in (no_mounter.state / "mounter.log").read_text()


def test_mounter_that_cannot_be_started_says_where_it_has_said_why(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(StoreBrokenError, match=r"cannot be started; see .*/mounter\.log"):
        Mounter.start_detached(short_path / "file" / "mounter.sock", short_path)
    assert "cannot be listened on" in (short_path / "mounter.log").read_text()


@pytest.mark.usefixtures("no_mounter")
def test_mounter_that_ended_is_started_again(short_path: Path) -> None:
    begun = []
    for _ in range(2):
        for _ in range(2):
            Mounter.start_detached(short_path / "mounter.sock", short_path)
        (pid,) = mounters_of(short_path)
        end(pid)
        begun.append(pid)
    assert begun[0] != begun[1]
