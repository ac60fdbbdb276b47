"""Reads of a lazy volume whose bytes are local: against a bind of the same file, and libfuse's passthrough example.

All of them read the same file of the store. Where the kernel has the pages nobody but the kernel works; where it has
not, each mebibyte is asked of a process, which finds it in the page cache.
"""

import mmap
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contenders import publish
from benchmarks.figures import Figure, Kind, Row, against
from benchmarks.lazy import serving
from benchmarks.lazy_artifacts import MIB, check, name, sparse
from benchmarks.workbench import Workbench
from tests.support.pods import wait_for

_LEAST_OF_BIND = 0.8
_LOADED, _COPIED = "sequential into new memory, cached", "sequential into one buffer, cached"
_PAGE = 4096
_ROUNDS = 3
"""For one of others: these take a fraction of a second."""
_READ_AHEAD_KIB = "4096"
"""As the driver sets it."""

_buffer = memoryview(mmap.mmap(-1, MIB))


@dataclass(frozen=True, slots=True)
class _Reader:
    """A way to the file."""

    who: str
    kind: Kind
    path: Path


@dataclass(frozen=True, slots=True)
class _Work:
    """What is read of a descriptor's file of some bytes, and whether the kernel has its pages."""

    what: str
    read: Callable[[int, int], None]
    is_cached: bool


def lazy_reads(bench: Workbench, peers: set[str], runs: int) -> Row:
    """Read what is local, in turn through a lazy volume, a bind and the passthrough example."""
    size, count = bench.scale.lazy_read_bytes, bench.scale.lazy_random_reads
    row = Row(name="lazy-reads", work=f"reads of {size >> 20} MiB that are local")
    scattered = partial(_scattered, count)
    works = [
        _Work(_LOADED, _load, is_cached=True),
        _Work(_COPIED, _sequential, is_cached=True),
        _Work("mapped, cached", _map, is_cached=True),
        _Work(f"{count} of 4 KiB, cached", scattered, is_cached=True),
        _Work("sequential, not cached", _sequential, is_cached=False),
        _Work(f"{count} of 4 KiB, not cached", scattered, is_cached=False),
    ]
    with _readers(bench, peers) as readers:
        for work in works:
            figures = _measured(work, readers, size, runs * _ROUNDS)
            row.figures += figures
            if work.what in {_LOADED, _COPIED}:
                row.goals.append(
                    against(figures[1], figures[0], _LEAST_OF_BIND, f"at least {_LEAST_OF_BIND:.0%} of a bind")
                )
    return row


def _measured(work: _Work, readers: Sequence[_Reader], size: int, rounds: int) -> list[Figure]:
    samples: dict[str, list[float]] = {reader.who: [] for reader in readers}
    for number in range(-1, rounds):
        turn = number % len(readers)
        for reader in [*readers[turn:], *readers[:turn]]:
            took = _timed(work, reader, size)
            if number >= 0:  # the first round fills caches
                samples[reader.who].append(took * 1000)
    return [
        Figure(who=f"{reader.who}, {work.what}", kind=reader.kind, unit="ms", samples=tuple(samples[reader.who]))
        for reader in readers
    ]


def _timed(work: _Work, reader: _Reader, size: int) -> float:
    descriptor = os.open(reader.path, os.O_RDONLY)
    try:
        if not work.is_cached and reader.kind is not Kind.LIMIT:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        clock = time.thread_time if work.is_cached else time.monotonic  # nobody else works for what is cached
        started = clock()
        work.read(descriptor, size)
        return clock() - started
    finally:
        os.close(descriptor)


def _sequential(descriptor: int, size: int) -> None:
    for place in range(0, size, MIB):
        os.preadv(descriptor, [_buffer], place)
        check(_buffer, place)


def _load(descriptor: int, size: int) -> None:
    """Read into memory that is new, as whoever loads a model does."""
    with mmap.mmap(-1, size) as memory, memoryview(memory) as room:
        for place in range(0, size, MIB):
            with room[place : place + MIB] as part:
                os.preadv(descriptor, [part], place)
        check(memory[:MIB], 0)


def _map(descriptor: int, size: int) -> None:
    with (
        mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as memory,
        memoryview(memory) as pages,
        pages[::_PAGE] as firsts,
    ):
        firsts.tobytes()


def _scattered(count: int, descriptor: int, size: int) -> None:
    noise = random.Random(1)  # noqa: S311 (the same places each time)
    for _ in range(count):
        os.preadv(descriptor, [_buffer[:_PAGE]], noise.randrange(size // _PAGE) * _PAGE)


@contextmanager
def _readers(bench: Workbench, peers: set[str]) -> Iterator[list[_Reader]]:
    """Lend a lazy volume that has become local meanwhile, a bind, and what shows that bind."""
    artifact = sparse(bench, "reads", [bench.scale.lazy_read_bytes])
    with ExitStack() as stack:
        driver = stack.enter_context(serving(bench, stack.enter_context(bench.fresh())))
        lazy, bind = driver.target("lazy"), driver.target("bind")
        driver.publish(lazy, volume_id="lazy", reference=artifact.reference, mode="lazy")
        stack.callback(driver.unpublish, lazy, volume_id="lazy")
        (lazy / name(0)).read_bytes()
        publish(driver, bind, artifact.reference, "bind")
        stack.callback(driver.unpublish, bind, volume_id="bind")
        readers = [
            _Reader("csi-oras lazy", Kind.OURS, lazy / name(0)),
            _Reader("bind", Kind.LIMIT, bind / name(0)),
        ]
        if "passthrough_ll" in peers:
            for who, read_ahead in (("passthrough_ll", ""), ("passthrough_ll with our read-ahead", _READ_AHEAD_KIB)):
                mounted = stack.enter_context(_passthrough(bind, read_ahead))
                readers.append(_Reader(who, Kind.PEER, mounted / name(0)))
        yield readers


@contextmanager
def _passthrough(source: Path, read_ahead: str) -> Iterator[Path]:
    """Have libfuse's example show a directory, with its threads and its cache."""
    mounted = Path(tempfile.mkdtemp(prefix="passthrough-", dir=source.parent))
    command = ["passthrough_ll", "-f", "-o", f"source={source},cache=always", str(mounted)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(mounted.is_mount)
        if read_ahead:
            device = mounted.stat().st_dev
            Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text(read_ahead)
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=False)
        process.terminate()
        process.wait(20)
        mounted.rmdir()
