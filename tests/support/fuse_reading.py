"""`python fuse_reading.py KIND PATH TRUTH SECONDS`: reads a file in one way and holds each byte against another's.

It goes on until the time is up, at least once through, past the kernel's cache; the first wrong byte ends it.
"""

import mmap
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
KINDS = ("sequential", "random", "mapped", "direct", "names")
_aligned = mmap.mmap(-1, MIB)


def sequential(path: str, truth: bytes) -> Iterator[int]:
    with Path(path).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for place in range(0, len(truth), 100_000):
            found = more = file.read(100_000)
            while more and len(found) < 100_000:  # the next one says what was wrong
                found += (more := file.read(100_000 - len(found)))
            _check(found, truth, place, 100_000)
            yield 1
        _check(file.read(1), b"", 0, 1)


def scattered(path: str, truth: bytes) -> Iterator[int]:
    with Path(path).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(100):
            length = random.randrange(1, 200_000)  # noqa: S311 (any place)
            place = random.randrange(len(truth))  # noqa: S311 (any place)
            _check(os.pread(file.fileno(), length, place), truth, place, length)
            yield 1


def mapped(path: str, truth: bytes) -> Iterator[int]:
    with Path(path).open("rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as memory:
            for _ in range(100):
                place = random.randrange(len(truth))  # noqa: S311 (any place)
                _check(memory[place : place + 5000], truth, place, 5000)
                yield 1
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def direct(path: str, truth: bytes) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    for place in range(0, len(truth), MIB):
        read = os.preadv(descriptor, [_aligned], place)
        _check(_aligned[:read], truth, place, MIB)
        yield 1
    os.close(descriptor)


def names(path: str, truth: bytes) -> Iterator[int]:
    for entry in os.scandir(Path(path).parent):
        entry.stat()
    if Path(path).stat().st_size != len(truth):
        sys.exit("another size")
    yield 1


def _check(found: bytes, truth: bytes, place: int, length: int) -> None:
    if found != truth[place : place + length]:
        sys.exit(f"wrong bytes at {place}: {len(found)} of {length}, {found[:8].hex()}")


_WAYS: dict[str, Callable[[str, bytes], Iterator[int]]] = dict(
    zip(KINDS, (sequential, scattered, mapped, direct, names), strict=True)
)


def main() -> None:
    kind, path, truth, seconds = sys.argv[1:]
    content, deadline, longest, count = Path(truth).read_bytes(), time.monotonic() + float(seconds), 0.0, 0
    while not count or time.monotonic() < deadline:
        before = time.monotonic()
        for _ in _WAYS[kind](path, content):
            now = time.monotonic()
            before, longest, count = now, max(longest, now - before), count + 1
    sys.stdout.write(f"{kind}: {count} reads, the longest took {longest:.2f} s\n")


if __name__ == "__main__":
    main()
