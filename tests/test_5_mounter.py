"""The mounter: what it holds is served, and nothing else; it leaves nothing behind, and can be asked anything."""

import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.app import DEFAULT_STATE_DIR
from csi_oras.cli.mounter import mounter as command
from csi_oras.errors import StoreBrokenError
from csi_oras.mount import fuse
from csi_oras.mounter import protocol
from csi_oras.mounter.client import Mounter, Process
from tests.support.mounting import HoldingDriver, RunningMounter, children_of, descriptors_of, eventually, name_of

pytestmark = pytest.mark.needs("root", "fuse")
CONTENT = os.urandom(300_000)


@pytest.fixture
def mounter(short_path: Path) -> Iterator[RunningMounter]:
    with RunningMounter(short_path) as running:
        yield running


@pytest.fixture
def driver(mounter: RunningMounter) -> Iterator[HoldingDriver]:
    with HoldingDriver(mounter.directory) as holding:
        yield holding


def content_of(path: Path) -> bytes:
    return subprocess.run(["cat", str(path)], capture_output=True, timeout=60, check=True).stdout


def test_hold_serves_a_tree(mounter: RunningMounter, driver: HoldingDriver) -> None:
    file = driver.add(1, CONTENT)
    driver.mount(1)
    assert content_of(file) == CONTENT
    assert mounter.client.processes() == {name_of(1): Process(mounter.children()[0], 0)}


def test_hold_of_what_is_held_changes_nothing(mounter: RunningMounter, driver: HoldingDriver) -> None:
    driver.add(1, CONTENT)
    driver.mount(1)
    before = mounter.client.processes(), mounter.descriptors()
    for _ in range(20):
        driver.hold(1, driver.devices[name_of(1)])
    assert (mounter.client.processes(), mounter.descriptors()) == before


def test_list_returns_the_connection(mounter: RunningMounter, driver: HoldingDriver) -> None:
    file = driver.add(1, CONTENT)
    driver.mount(1)
    os.close(driver.devices.pop(name_of(1)))  # as a driver that died
    (device,) = mounter.client.list().values()
    driver.devices[name_of(1)] = device
    again = fuse.mount(device, name_of(1), noexec=True)  # only who has the connection of a mount can do that
    os.close(again)
    assert not os.get_inheritable(device)
    assert content_of(file) == CONTENT


def test_drop_ends_the_process_and_lets_go(mounter: RunningMounter, driver: HoldingDriver) -> None:
    driver.add(1, CONTENT)
    driver.mount(1)
    mounter.client.drop(name_of(1))
    assert (mounter.client.processes(), mounter.children()) == ({}, [])
    assert "/dev/fuse" not in mounter.descriptors()
    mounter.client.drop(name_of(1))


def test_drop_of_a_process_that_is_stopped_is_bounded(mounter: RunningMounter, driver: HoldingDriver) -> None:
    driver.add(1, CONTENT)
    driver.add(2, CONTENT)
    driver.mount(1)
    driver.mount(2)
    stopped = mounter.client.processes()[name_of(1)].pid
    os.kill(stopped, signal.SIGSTOP)
    mounter.client.drop(name_of(1))  # it has a bound of its own, and raises
    assert not Path(f"/proc/{stopped}").exists()
    assert mounter.client.list().keys() == {name_of(2)}


def test_hold_while_the_process_is_being_ended_begins_anew(mounter: RunningMounter, driver: HoldingDriver) -> None:
    file = driver.add(1, CONTENT)
    minor = driver.mount(1)
    os.kill(mounter.client.processes()[name_of(1)].pid, signal.SIGSTOP)
    fuse.abort(minor)  # its process does not notice that it is over
    driver.unmount(1)
    driver.mount(1)
    assert content_of(file) == CONTENT


def test_process_whose_connection_is_over_is_not_begun_again(mounter: RunningMounter, driver: HoldingDriver) -> None:
    driver.add(1, CONTENT)
    fuse.abort(driver.mount(1))
    eventually(lambda: not mounter.client.processes(), "it is still held")
    assert mounter.children() == []
    with pytest.raises(StoreBrokenError, match="connection that has ended"):
        driver.hold(1, driver.devices[name_of(1)])


def test_process_that_cannot_serve_is_begun_again_with_pauses(mounter: RunningMounter, driver: HoldingDriver) -> None:
    file = driver.add(1, CONTENT)
    plan = driver.lazy / name_of(1) / "plan.json"
    good = plan.read_bytes()
    plan.write_bytes(b"{}")
    begun = time.monotonic()
    driver.mount(1)
    eventually(lambda: mounter.client.processes()[name_of(1)].restarts >= 4, "it is given up")
    assert time.monotonic() - begun > 0.1 + 0.2 + 0.4  # a bound from below: no machine is too slow for it
    plan.write_bytes(good)
    assert content_of(file) == CONTENT


def test_process_has_its_own_device_and_memory_and_no_privilege(mounter: RunningMounter, driver: HoldingDriver) -> None:
    for number in range(3):
        file = driver.add(number, CONTENT)
        driver.mount(number)
        assert content_of(file) == CONTENT
    assert mounter.process
    own = mounter.process.pid
    for pid in mounter.children():
        found = descriptors_of(pid)
        assert found.count("/dev/fuse") == 1
        assert not any("mounter.sock" in name for name in found)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert "rw-s" not in Path(f"/proc/{pid}/maps").read_text()  # memory that others write, too
        assert os.getsid(pid) == pid != own
        scores = [int(Path(f"/proc/{one}/oom_score_adj").read_text()) for one in (pid, own)]
        assert scores[0] > scores[1] or scores == [1000, 1000]


def test_fifty_trees_are_held_and_let_go(mounter: RunningMounter, driver: HoldingDriver) -> None:
    before = mounter.descriptors()
    names = {name_of(number) for number in range(50)}
    for number in range(50):
        driver.add(number, b"%d" % number * 1000)
        driver.mount(number)
    for number in range(50):
        assert content_of(driver.path(number) / "file") == b"%d" % number * 1000
    processes = mounter.client.processes()
    assert processes.keys() == names
    assert sorted(process.pid for process in processes.values()) == sorted(mounter.children())
    for name in names:
        mounter.client.drop(name)
    assert (mounter.client.list(), mounter.children()) == ({}, [])
    assert mounter.descriptors() == before


def test_more_trees_than_descriptors_in_a_message_are_listed(mounter: RunningMounter, driver: HoldingDriver) -> None:
    count = protocol.MOST_DESCRIPTORS + 3
    mounts = []
    for number in range(count):
        (
            driver.lazy / name_of(number)
        ).mkdir()  # without a plan: its processes end at once, and it is held all the same
        device = driver.devices[name_of(number)] = fuse.open_device()
        mounts.append(fuse.mount(device, name_of(number), noexec=False))
        driver.hold(number, device)
    held = mounter.client.list()
    assert held.keys() == {name_of(number) for number in range(count)}
    assert all(stat.S_ISCHR(os.fstat(device).st_mode) for device in held.values())
    for descriptor in (*held.values(), *mounts):
        os.close(descriptor)


def test_second_mounter_of_an_endpoint_is_refused(mounter: RunningMounter, driver: HoldingDriver) -> None:
    file = driver.add(1, CONTENT)
    driver.mount(1)
    second = mounter.spawn()
    assert second.wait(30) == 1
    assert "is another mounter's" in mounter.log
    assert content_of(file) == CONTENT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_mounter(mounter: RunningMounter, driver: HoldingDriver, number: int) -> None:
    driver.add(1, CONTENT)
    driver.mount(1)
    assert mounter.children()
    mounter.end(number)  # which waits for them
    assert mounter.process
    assert mounter.process.returncode == (-9 if number == signal.SIGKILL else 0)
    with pytest.raises(StoreBrokenError, match="is not there"):
        Mounter.connect(mounter.socket)


def test_mounter_that_hangs_fails_requests_in_time(mounter: RunningMounter) -> None:
    assert mounter.process
    mounter.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreBrokenError, match="has not answered"):
            Mounter(mounter.socket, patience=0.5).hold("a" * 64, 0, Path("p"), Path("d"))
    finally:
        mounter.process.send_signal(signal.SIGCONT)


def test_process_lives_while_its_log_does_not(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningMounter(short_path)
    (short_path / "mounter.log").symlink_to("/dev/full")
    with monkeypatch.context() as patched:
        patched.setattr(RunningMounter, "log", "")
        with running, HoldingDriver(short_path) as driver:
            file = driver.add(1, CONTENT)
            driver.mount(1)
            os.kill(running.children()[0], signal.SIGKILL)
            assert content_of(file) == CONTENT
            assert running.process
            assert children_of(running.process.pid)


def test_process_serves_only_when_that_of_an_earlier_mounter_does_not(
    mounter: RunningMounter, driver: HoldingDriver
) -> None:
    """Whoever serves holds a lock, which the kernel gives back when he is gone."""
    file = driver.add(1, CONTENT)
    earlier = os.open(driver.lazy / name_of(1), os.O_RDONLY)
    fcntl.flock(earlier, fcntl.LOCK_EX)
    driver.mount(1)
    (pid,) = mounter.children()
    eventually(lambda: re.search(rf"-> FLOCK .* {pid} ", Path("/proc/locks").read_text()), "it does not wait")
    assert not driver.files.heard
    os.close(earlier)
    assert content_of(file) == CONTENT
    assert mounter.children() == [pid]


def test_command_has_the_state_directory_of_the_driver() -> None:
    defaults = {option.name: option.default for option in command.params}
    assert defaults["state_dir"] == DEFAULT_STATE_DIR
    assert defaults["endpoint"] == "unix:///run/csi-oras/mounter.sock"


@pytest.mark.parametrize(
    ("endpoint", "before", "said"),
    [
        ("tcp://127.0.0.1:1", "", "write it as unix:///path/name.sock"),
        (f"unix:///{'d' * 100}/mounter.sock", "", "too long for a unix socket"),
        ("unix:///proc/mounter.sock", "", "cannot be listened on"),
        ("unix:///proc/mounter.sock", "sys.modules['pyfuse3'] = None", "pip install 'csi-oras[fuse]'"),
    ],
)
def test_mounter_that_cannot_start_says_why(endpoint: str, before: str, said: str) -> None:
    script = f"import sys; {before}\nfrom csi_oras.cli import main; main(['mounter', '--endpoint', {endpoint!r}])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
