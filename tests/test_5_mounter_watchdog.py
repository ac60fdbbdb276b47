"""A process that hangs is killed, and only such a one: who waits for it is served by the next, or can be killed."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from csi_oras.mounter.client import Process
from csi_oras.mounter.pulse import Pulse
from tests.support.mounting import HoldingDriver, RunningMounter, eventually, name_of

pytestmark = pytest.mark.needs("root", "fuse")
Reader = subprocess.Popen[bytes]
CONTENT = os.urandom(300_000)
_SAID = "kills a process that hangs"
_LOOK_SECONDS = 1.0
_HASTY = f"""
from csi_oras.fuse import program
from csi_oras.mounter import pulse
program._BEAT_SECONDS, pulse.LOOK_SECONDS = 0.1, {_LOOK_SECONDS}
"""
_SILENT_LOOKS = 4


@pytest.fixture
def mounter(short_path: Path) -> Iterator[RunningMounter]:
    with RunningMounter(short_path, before=_HASTY) as running:
        yield running


@pytest.fixture
def driver(mounter: RunningMounter) -> Iterator[HoldingDriver]:
    with HoldingDriver(mounter.directory) as holding:
        yield holding


@pytest.fixture
def read() -> Iterator[Callable[[Path], Reader]]:
    """Start to read a file; who still does in the end is killed."""
    readers: list[Reader] = []

    def start(file: Path) -> Reader:
        readers.append(subprocess.Popen(["cat", str(file)], stdout=subprocess.PIPE, cwd="/"))
        return readers[-1]

    yield start
    for reader in readers:
        reader.kill()
        reader.communicate()


def served(driver: HoldingDriver, number: int) -> Path:
    """Mount a tree, and return its file when somebody answers for it."""
    file = driver.add(number, b"%d" % number + CONTENT)
    driver.mount(number)
    subprocess.run(["stat", str(file)], stdout=subprocess.DEVNULL, timeout=60, check=True)
    return file


def content_of(reader: Reader) -> bytes:
    return reader.communicate(timeout=60)[0]


def stop(mounter: RunningMounter, number: int) -> int:
    pid = mounter.client.processes()[name_of(number)].pid
    os.kill(pid, signal.SIGSTOP)
    return pid


def wait_for_successor(mounter: RunningMounter, number: int, stopped: int) -> None:
    eventually(lambda: mounter.client.processes()[name_of(number)].pid not in {stopped, 0}, "it is left as it is")


def assert_unchanged(mounter: RunningMounter, before: Mapping[str, Process], *numbers: int) -> None:
    after = mounter.client.processes()
    assert [after[name_of(number)] for number in numbers] == [before[name_of(number)] for number in numbers]


def stopped_in_mid_read(
    mounter: RunningMounter, driver: HoldingDriver, read: Callable[[Path], Reader]
) -> tuple[Path, Reader, int]:
    """Return a file, a reader who waits for it, and the process that was stopped when it had taken his request."""
    file = served(driver, 1)
    driver.files.goes_on.clear()
    reader = read(file)
    driver.files.wait_for("need")
    return file, reader, stop(mounter, 1)


def test_reader_of_a_process_that_hangs_is_served_by_the_next(
    mounter: RunningMounter, driver: HoldingDriver, read: Callable[[Path], Reader]
) -> None:
    _, reader, stopped = stopped_in_mid_read(mounter, driver, read)
    wait_for_successor(mounter, 1, stopped)
    driver.files.goes_on.set()
    assert content_of(reader) == b"1" + CONTENT
    assert mounter.log.count(_SAID) == 1


def test_reader_that_was_killed_is_gone_when_the_process_that_hangs_is(
    mounter: RunningMounter, driver: HoldingDriver, read: Callable[[Path], Reader]
) -> None:
    file, reader, stopped = stopped_in_mid_read(mounter, driver, read)
    reader.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(_LOOK_SECONDS)  # the kernel keeps it, for it waits for who has taken its request
    driver.files.goes_on.set()
    content_of(reader)
    assert reader.returncode == -signal.SIGKILL
    wait_for_successor(mounter, 1, stopped)
    assert content_of(read(file)) == b"1" + CONTENT


def test_process_that_is_idle_or_waits_for_bytes_lives_while_another_is_killed(
    mounter: RunningMounter, driver: HoldingDriver, read: Callable[[Path], Reader]
) -> None:
    waited_for, *_ = [served(driver, number) for number in (1, 2, 3, 4)]
    driver.files.goes_on.clear()
    reader = read(waited_for)
    driver.files.wait_for("need")
    before = mounter.client.processes()
    for number in (3, 4):
        wait_for_successor(mounter, number, stop(mounter, number))
    driver.files.goes_on.set()
    assert content_of(reader) == b"1" + CONTENT
    assert_unchanged(mounter, before, 1, 2)


def test_process_that_waits_for_its_predecessor_is_not_killed(
    mounter: RunningMounter, driver: HoldingDriver, read: Callable[[Path], Reader]
) -> None:
    file = driver.add(1, CONTENT)
    predecessor = os.open(driver.lazy / name_of(1), os.O_RDONLY)
    fcntl.flock(predecessor, fcntl.LOCK_EX)
    driver.mount(1)
    served(driver, 2)
    before = mounter.client.processes()[name_of(1)]
    wait_for_successor(mounter, 2, stop(mounter, 2))  # it would have been killed meanwhile
    os.close(predecessor)
    assert content_of(read(file)) == CONTENT
    assert mounter.client.processes()[name_of(1)] == before


def test_mounter_that_was_stopped_kills_nobody_but_who_hangs(mounter: RunningMounter, driver: HoldingDriver) -> None:
    assert mounter.process
    for number in (1, 2, 3):
        served(driver, number)
    before = mounter.client.processes()
    pids = [mounter.process.pid, *(process.pid for process in before.values())]  # as a machine that is suspended
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(_LOOK_SECONDS * (_SILENT_LOOKS + 1))
    os.kill(mounter.process.pid, signal.SIGCONT)
    assert mounter.client.processes() == before  # it has looked since
    for pid in pids[:-1]:
        os.kill(pid, signal.SIGCONT)
    wait_for_successor(mounter, 3, pids[-1])
    assert_unchanged(mounter, before, 1, 2)
    assert mounter.log.count(_SAID) == 1


def test_pulse_is_lost_once_when_nothing_is_heard_for_some_looks() -> None:
    pulse = Pulse()
    try:
        assert not any(pulse.is_lost() for _ in range(100))  # it has not begun
        os.write(pulse.theirs, b"..")
        looks = [pulse.is_lost() for _ in range(100)]
        assert [number for number, is_lost in enumerate(looks) if is_lost] == [_SILENT_LOOKS]
        os.write(pulse.theirs, b".")
        assert [pulse.is_lost() for _ in range(_SILENT_LOOKS)] == [False] * _SILENT_LOOKS
    finally:
        pulse.close()


def test_pulse_of_a_process_that_has_closed_its_end_is_lost() -> None:
    pulse = Pulse()
    os.write(pulse.theirs, b".")
    pulse.give()
    assert any(pulse.is_lost() for _ in range(_SILENT_LOOKS + 1))
    pulse.close()
