"""Lazy volumes whose processes, driver and mounter are killed (-9) in the midst of reads: a pause, and nothing else."""

import errno
import mmap
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.mount import fuse
from tests.support.artifacts import Layer, Pusher
from tests.support.gate import Gate
from tests.support.lazy_node import MIB, LazyNode, Readers
from tests.support.pods import wait_for

pytestmark = [pytest.mark.needs("root", "registry", "fuse"), pytest.mark.timeout(180)]
CONTENT = random.Random(7).randbytes(32 * MIB)  # noqa: S311 (any bytes)
_UPGRADE_SECONDS = 5


@pytest.fixture
def node(short_path: Path) -> Iterator[LazyNode]:
    with LazyNode(short_path) as running:
        yield running
        running.check_nothing_is_left()


@pytest.fixture
def truth(short_path: Path) -> Path:
    path = short_path / "truth"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reference(pusher: Pusher, repository: str) -> str:
    """Of an artifact with one large file, "model", by the name that the gate stands before."""
    pusher.artifact(repository, [Layer(content=CONTENT, title="model")])
    return f"{repository}:v1"


@pytest.fixture
def gate(registry: Distribution) -> Iterator[Gate]:
    with Gate(registry.address) as standing:
        yield standing


def kill_driver(node: LazyNode) -> None:
    node.kill()
    node.start()


def kill_driver_and_processes(node: LazyNode) -> None:
    assert node.process
    os.kill(node.process.pid, signal.SIGKILL)
    node.kill_serving()
    node.stop()
    node.start()


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a file whose connection may be over when it is closed, which is an error then."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)


DEATHS = {
    "process": (LazyNode.kill_serving, 6),
    "driver": (kill_driver, 4),
    "mounter": (LazyNode.kill_mounter, 5),
    "driver and process": (kill_driver_and_processes, 4),
}


@pytest.mark.parametrize("death", DEATHS)
def test_readers_who_wait_for_bytes_while_one_is_killed_see_a_pause_and_no_error(
    node: LazyNode, gate: Gate, reference: str, truth: Path, death: str
) -> None:
    """Bytes come a few at a time, and somebody is killed whenever everybody waits for the next."""
    kill, times = DEATHS[death]
    target = node.show(f"{gate.address}/{reference}")
    gate.hold_after(MIB)
    with Readers(target / "model", truth, kinds=("sequential", "random", "mapped", "direct")) as readers:
        for _ in range(times):
            gate.wait_until_held()
            assert readers.are_at_it()
            kill(node)
            gate.hold_after(MIB)
            node.wait_until_held()
        gate.open()
        readers.check()
    node.hide(target)


def test_readers_see_no_error_while_all_are_killed_by_chance(
    node: LazyNode, pusher: Pusher, reference: str, truth: Path
) -> None:
    target = node.show(f"{pusher.address}/{reference}")
    chance, deaths = random.Random(11), 0  # noqa: S311 (moments, no secrets)
    with Readers(target / "model", truth, seconds=6) as readers:
        while readers.are_at_it():
            node.wait_until_held()
            chance.choice([kill for kill, _ in DEATHS.values()])(node)
            deaths += 1
            time.sleep(chance.uniform(0, 0.4))  # anywhere in a read, or in the beginning of a successor
        readers.check()
    assert deaths > len(DEATHS)
    node.hide(target)


def test_file_that_was_opened_before_all_were_killed_is_read_on(node: LazyNode, gate: Gate, reference: str) -> None:
    target = node.show(f"{gate.address}/{reference}")
    with (target / "model").open("rb", buffering=0) as file:
        for number, (kill, _) in enumerate(DEATHS.values()):
            assert file.read(1000) == CONTENT[number * 1000 : (number + 1) * 1000]
            node.wait_until_held()
            kill(node)
            place = (4 + 5 * number) * MIB
            assert os.pread(file.fileno(), MIB, place) == CONTENT[place : place + MIB]
            assert [path.name for path in target.iterdir()] == ["model"]
    node.hide(target)


def test_driver_that_is_upgraded_in_the_midst_of_reads_is_a_pause(
    node: LazyNode, gate: Gate, reference: str, truth: Path
) -> None:
    target = node.show(f"{gate.address}/{reference}")
    gate.hold_after(4 * MIB)
    with Readers(target / "model", truth, kinds=("sequential", "random", "mapped", "direct")) as readers:
        gate.wait_until_held()
        node.stop()
        time.sleep(_UPGRADE_SECONDS)
        assert readers.are_at_it()
        assert node.serving()
        node.start()
        gate.open()
        readers.check()
    node.hide(target)


def test_driver_and_mounter_dead_at_once_end_the_mount_and_the_next_publish_mounts_anew(
    node: LazyNode, gate: Gate, reference: str
) -> None:
    """Nobody holds the connection then: that is an error at once, and no reader hangs."""
    target = node.show(f"{gate.address}/{reference}", "volume")
    model = target / "model"
    gate.hold_after(0)
    with ThreadPoolExecutor(1) as pool, opened(model) as descriptor:
        read = pool.submit(os.read, descriptor, MIB)
        gate.wait_until_held()
        node.kill()
        node.kill_mounter()
        with pytest.raises(OSError, match=rf"\[Errno ({errno.ENOTCONN}|{errno.ECONNABORTED})\]"):
            read.result(10)
    with pytest.raises(OSError, match=f"Errno {errno.ENOTCONN}"):
        list(target.iterdir())
    gate.open()
    node.start()
    assert node.show(f"{gate.address}/{reference}", "volume") == target
    assert [one.target for one in node.connections()] == [str(target)]
    assert model.read_bytes() == CONTENT
    node.hide(target)


def test_dead_volume_is_unpublished(node: LazyNode, pusher: Pusher, reference: str) -> None:
    target = node.show(f"{pusher.address}/{reference}")
    node.kill()
    node.kill_mounter()
    node.start()
    node.hide(target, timeout=20)
    assert not target.exists()


def test_process_that_is_stopped_keeps_no_volume_and_no_reader(node: LazyNode, gate: Gate, reference: str) -> None:
    target = node.show(f"{gate.address}/{reference}")
    model = target / "model"
    gate.hold_after(0)
    with ThreadPoolExecutor(2) as pool, opened(model) as cached, opened(model, os.O_DIRECT) as direct:
        reads = [pool.submit(os.preadv, descriptor, [mmap.mmap(-1, 4096)], 0) for descriptor in (cached, direct)]
        gate.wait_until_held()
        (stopped,) = node.serving()
        os.kill(stopped, signal.SIGSTOP)
        node.hide(target, timeout=20)
        for read in reads:
            with pytest.raises(OSError, match="Errno"):
                read.result(5)
    assert not target.exists()


@pytest.mark.soak
def test_mounter_that_is_stopped_keeps_no_volume(node: LazyNode, pusher: Pusher, reference: str) -> None:
    target = node.show(f"{pusher.address}/{reference}")
    mounter = node.mounter()
    os.kill(mounter, signal.SIGSTOP)
    try:
        node.hide(target, timeout=40)
        assert node.connections() == []
    finally:
        os.kill(mounter, signal.SIGCONT)


def test_volume_whose_tree_is_lost_is_let_go_of_when_a_driver_starts(
    node: LazyNode, pusher: Pusher, reference: str
) -> None:
    target = node.show(f"{pusher.address}/{reference}", "volume")
    assert (target / "model").read_bytes() == CONTENT
    node.stop()
    (tree,) = (path for path in (node.state / "lazy").iterdir() if path.is_dir())
    (tree / "tree.json").write_text("{")
    node.start()
    wait_for(lambda: not node.serving())
    with pytest.raises(OSError, match=f"Errno {errno.ENOTCONN}"):
        list(target.iterdir())
    node.show(f"{pusher.address}/{reference}", "volume")
    assert (target / "model").read_bytes() == CONTENT
    node.hide(target)


def test_connection_that_somebody_has_ended_keeps_no_other_from_being_served(
    node: LazyNode, gate: Gate, pusher: Pusher, reference: str
) -> None:
    """An administrator may end one by sysfs, or the kernel by its own time limit."""
    repository = reference.partition(":")[0]
    pusher.artifact(repository, [Layer(content=CONTENT[: 8 * MIB], title="model")], tag="other")
    target, other = node.show(f"{gate.address}/{reference}"), node.show(f"{gate.address}/{repository}:other")
    (ended,) = (one for one in node.connections() if one.target == str(target))
    fuse.abort(ended.minor)
    wait_for(lambda: len(node.serving()) == 1)
    node.kill_mounter()
    assert (other / "model").read_bytes() == CONTENT[: 8 * MIB]
    second = node.show(f"{gate.address}/{reference}", "second")
    assert (second / "model").read_bytes() == CONTENT
    assert node.show(f"{gate.address}/{reference}", target.parent.name) == target
    assert (target / "model").read_bytes() == CONTENT
    node.hide(target, other, second)


@pytest.mark.soak
def test_live_volume_that_is_published_again_stays_while_no_mounter_answers_the_driver(
    node: LazyNode, gate: Gate, reference: str
) -> None:
    """Nobody knows then whether it is dead."""
    target = node.show(f"{gate.address}/{reference}", "volume")
    (before,) = node.connections()
    node.stop()
    mounter = node.mounter()
    os.kill(mounter, signal.SIGSTOP)
    try:
        node.start()
        with pytest.raises(grpc.RpcError):
            node.publish(target, volume_id="volume", reference=f"{gate.address}/{reference}", mode="lazy", timeout=60)
        assert node.connections() == [before]
    finally:
        os.kill(mounter, signal.SIGCONT)
    node.wait_until_held()
    assert (target / "model").read_bytes() == CONTENT
    assert node.show(f"{gate.address}/{reference}", "volume") == target
    assert node.connections() == [before]
    node.hide(target)


def test_driver_without_lazy_volumes_needs_no_mounter_whoever_else_has_some(
    node: LazyNode, pusher: Pusher, reference: str
) -> None:
    """The mounts of others are seen, and are nothing to it."""
    target = node.show(f"{pusher.address}/{reference}")
    (node.directory / "other").mkdir()
    with LazyNode(node.directory / "other") as other:
        eager = other.show(f"{pusher.address}/{reference}", mode="eager")
        assert (eager / "model").read_bytes() == CONTENT
        other.hide(eager)
        assert not other.mounter()
        assert not (other.state / "mounter.log").exists()
    node.hide(target)


def test_volume_that_was_unmounted_while_no_driver_was_here_ends_when_one_starts(
    node: LazyNode, pusher: Pusher, reference: str
) -> None:
    """Who still has a file of it open, or a copy of the mount, keeps nothing of it alive."""
    target = node.show(f"{pusher.address}/{reference}", "volume")
    with opened(target / "model") as descriptor:
        node.stop()
        node.unmount_all()
        node.start()
        wait_for(lambda: not node.serving())
        with pytest.raises(OSError, match="Errno"):
            os.pread(descriptor, MIB, 16 * MIB)
    target.rmdir()
