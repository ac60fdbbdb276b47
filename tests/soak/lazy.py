"""The long run of lazy volumes: `python -m tests.soak.lazy`, for LAZY_SECONDS (3600), from SOAK_SEED.

Pods come, read in every way there is, holding each byte against the truth, and go, while processes, driver and mounter
are killed at moments of chance and the registry dies, crawls, hangs up and refuses. Only what a registry that is away
explains may be an error, and no more than EIO. At the end nothing is left; the first thing that is wrong ends the run.
"""

import errno
import mmap
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from tests.soak.__main__ import say
from tests.support.artifacts import Layer, Pusher
from tests.support.fault_proxy import CutError, Point, RefusedError
from tests.support.faulty_registry import FaultyRegistry
from tests.support.lazy_node import MIB, LazyNode
from tests.support.pods import wait_for

_READERS = 5
_ARTIFACTS = 10
_SIZES = (0, 1, 4097, 3 * MIB + 5, 20 * MIB, 40 * MIB)
_LONGEST_READ, _LONGEST_OF_ALL = 120.0, 300.0
"""Seconds after which a read, or a page of a mapped file, is there or an error: where nobody is killed, and ever."""
_STAYS_SECONDS = (0.5, 20.0)
_CALL_SECONDS = 240
_DISTURBS, _ENDURES = 0.3, 0.1
"""How likely trouble is the registry's, and lasts longer than anybody waits."""
_MOST_FAULTS = 500
_BLOBS = "/blobs/sha256:"


class Town:
    """A registry, a node, what pods read and what happens to them."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Let chance follow from `seed`; what the processes make of it, nobody can repeat."""
        self._chance = random.Random(seed)  # noqa: S311 (moments, no secrets)
        self.registry = FaultyRegistry(directory / "registry")
        (directory / "node").mkdir()
        self.node = LazyNode(directory / "node")
        self._truths: dict[str, dict[str, bytes]] = {}
        self._may_fail_until = self._killed = 0.0
        self.ended = threading.Event()
        self.reads = self.errors = self.volumes = 0
        self.troubles: dict[str, int] = {}

    def stock(self) -> None:
        """Push artifacts of large and small files."""
        pusher = Pusher(self.registry.address)
        for number in range(_ARTIFACTS):
            files = {f"file-{size}": self._chance.randbytes(size + number) for size in _SIZES}
            layers = [Layer(content=content, title=name) for name, content in files.items()]
            self._truths[pusher.artifact(f"soak/{number}", layers)] = files

    # -- pods

    def live(self, number: int, chance: random.Random) -> None:
        """Be one pod after the other until the run has ended."""
        lives = 0
        while not self.ended.is_set():
            lives += 1
            name = f"pod-{number}-{lives}"
            reference = chance.choice(list(self._truths))
            self._call(lambda: self.node.show(reference, name))  # noqa: B023 (called at once)
            target = self.node.target(name)
            self.volumes += 1
            until = time.monotonic() + chance.uniform(*_STAYS_SECONDS)
            while time.monotonic() < until and not self.ended.is_set():
                file, truth = chance.choice(list(self._truths[reference].items()))
                self._read(target / file, truth, chance)
            self._call(lambda: self.node.hide(target))  # noqa: B023 (the same)
            assert not target.exists()

    def _call(self, action: Callable[[], object]) -> None:
        """Call the driver as the kubelet does, again and again."""
        until = time.monotonic() + _CALL_SECONDS
        while True:
            try:
                action()
            except (grpc.RpcError, ValueError, AttributeError):  # a channel that is being closed says the last
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return

    def _read(self, path: Path, truth: bytes, chance: random.Random) -> None:
        way = chance.choice([_sequential, _scattered, _mapped, _direct])
        begun = time.monotonic()
        try:
            for place, found in way(path, len(truth), chance):
                assert found == truth[place : place + len(found)], f"{path}: wrong bytes at {place}"
                self._check_time(path, begun)
                begun = time.monotonic()
                self.reads += 1
                if self.ended.is_set():
                    return
        except OSError as error:
            self._judge(error, path, begun)

    def _judge(self, error: OSError, path: Path, begun: float) -> None:
        self.errors += 1
        assert error.errno == errno.EIO, f"{path}: {error}"
        assert begun < self._may_fail_until, f"{path}: {error}, while nothing was wrong with the registry"
        self._check_time(path, begun)

    def _check_time(self, path: Path, begun: float) -> None:
        """Look how long a read took; whoever serves in the place of one that was killed has his patience anew."""
        now = time.monotonic()
        took = f"{path}: a read took {now - begun:.0f} s"
        assert now - max(begun, self._killed) < _LONGEST_READ, took
        assert now - begun < _LONGEST_OF_ALL, took

    # -- trouble

    def trouble(self, chance: random.Random) -> None:
        """Kill and disturb until the run has ended; then all is well again."""
        deaths: dict[str, Callable[[], None]] = {
            "process": self.node.kill_serving,
            "driver": self._kill_driver,
            "mounter": self.node.kill_mounter,
            "upgrade": self._upgrade,
            "collection": self.node.collect,
        }
        while not self.ended.wait(chance.uniform(0.1, 5)):
            if chance.random() < _DISTURBS:
                self._disturb(chance)
                continue
            self._wait_until_both_hold()
            name = chance.choice(list(deaths))
            self._count(name)
            deaths[name]()
            self._killed = time.monotonic()

    def _count(self, trouble: str) -> None:
        self.troubles[trouble] = self.troubles.get(trouble, 0) + 1

    def _wait_until_both_hold(self) -> None:
        """Return when driver and mounter both hold all there is, for if both died at once, pods would have to."""
        wait_for(self.node.are_held)

    def _kill_driver(self) -> None:
        self.node.kill()
        self.node.start()

    def _upgrade(self) -> None:
        self.node.stop()
        time.sleep(3)
        self.node.start()

    def _disturb(self, chance: random.Random) -> None:
        """Have the registry be away, slow or refuse for a while."""
        with self._failing():
            fault = chance.choice(["dead", "hangs", "cut", "refused"])
            self._count(fault)
            if fault == "dead":
                self.registry.kill()
            elif fault == "hangs":
                for _ in range(_MOST_FAULTS):
                    self.registry.hangs_at(Point(method="GET", path=_BLOBS))
            else:
                for _ in range(_MOST_FAULTS):
                    self.registry.proxy.arm(Point(method="GET", path=_BLOBS), _cut if fault == "cut" else _refuse)
            self.ended.wait(chance.uniform(60, 100) if chance.random() < _ENDURES else chance.uniform(0.5, 10))
            self.registry.release()
            self.registry.revive()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        self._may_fail_until = float("inf")
        try:
            yield
        finally:
            self._may_fail_until = time.monotonic() + _LONGEST_READ  # what was asked for may still fail


def _cut() -> None:
    raise CutError


def _refuse() -> None:
    raise RefusedError


def _sequential(path: Path, size: int, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    with _opened(path) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        step, place = chance.choice([4096, 100_000, MIB]), chance.randrange(size + 1)
        while found := os.pread(descriptor, step, place):
            yield place, found
            place += len(found)
        assert place == size


def _scattered(path: Path, size: int, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    with _opened(path) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(50):
            place = chance.randrange(size + 1)
            yield place, os.pread(descriptor, chance.randrange(1, 200_000), place)


def _direct(path: Path, size: int, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    with _opened(path, os.O_DIRECT) as descriptor, mmap.mmap(-1, MIB) as memory:
        for _ in range(20):
            place = chance.randrange(size + 1) // 4096 * 4096
            count = os.preadv(descriptor, [memory], place)
            yield place, memory[:count]


def _mapped(path: Path, size: int, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    """Read as a map would, in a process of its own: a byte that cannot be had ends it."""
    if not size:
        return
    place = chance.randrange(size)
    reading, writing = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", _MAPPED, str(path), str(place)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_CLOSE, reading)],
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found = file.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.EIO, f"a process that maps it ended with {status}")
    assert len(found) == min(4096, size - place)
    yield place, found


_MAPPED = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
    place = int(sys.argv[2])
    sys.stdout.buffer.write(memory[place : place + 4096])
"""


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)


def main() -> int:
    """Let it run, and say how it goes."""
    seconds = float(os.environ.get("LAZY_SECONDS", "3600"))
    seed = int(os.environ.get("SOAK_SEED", str(time.time_ns() % 1_000_000_007)))
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    say(f"{seconds:g} s of lazy volumes, SOAK_SEED={seed}, in {directory}")
    town = Town(directory, seed)
    with town.registry, town.node:
        town.stock()
        _run(town, seconds, seed)
        say("everybody goes home")
        town.node.check_nothing_is_left()
    say(f"{town.reads} reads of {town.volumes} volumes, no wrong byte, {town.errors} errors: {town.troubles}")
    return 0


def _run(town: Town, seconds: float, seed: int) -> None:
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(_READERS + 1) as pool:
        chances = [random.Random(seed + number) for number in range(1, _READERS + 2)]  # noqa: S311 (the same)
        running = [pool.submit(town.live, number, chance) for number, chance in enumerate(chances[1:])]
        running.append(pool.submit(town.trouble, chances[0]))
        try:
            while time.monotonic() < until and not any(work.done() for work in running):
                town.ended.wait(min(10, max(0.1, until - time.monotonic())))
                said = f"{town.volumes} volumes, {town.reads} reads, {town.errors} errors, {town.troubles}"
                say(f"{until - time.monotonic():.0f} s left: {said}")
        finally:
            town.ended.set()
        for work in running:
            work.result()


if __name__ == "__main__":
    sys.exit(main())
