"""Content: files such as a container image holds, in sizes and in how well they compress, the same in every run.

Most files are small and most bytes are in large ones. Four fifths of the bytes are words, the rest is noise, as
compiled and compressed files are: gzip makes them about 2.3 times smaller. No two files are equal.
"""

import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

_LEAST_BYTES = 200
_MOST_BYTES = 4 << 20
_SPREAD = 1.9
"""The standard deviation of the logarithm of sizes: the median file is a sixth of the mean."""
_POOL_BYTES = 4 << 20
_PIECE_BYTES = 16 << 10
_NOISE_SHARE = 0.2
_CHANGED = 10
"""One file of so many is another one in the next version."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A file of an artifact; two of one number have the same name, and other content in another generation."""

    number: int
    size: int
    generation: int = 0

    @property
    def name(self) -> str:
        """Where it is, two directories down."""
        directory = self.number * 7919 % 499  # primes: neighbours in size are none in a directory
        return f"lib-{directory % 31:02}/part-{directory:03}/file-{self.number:05}.dat"

    @property
    def mode(self) -> int:
        """Programs are here and there."""
        return 0o644 if self.number % 8 else 0o755

    def content(self) -> bytes:
        """Return its bytes."""
        noise = random.Random(f"{self.number} {self.generation}")  # noqa: S311 (the same each time)
        pieces = [f"{self.number} {self.generation}\n".encode()]
        for _ in range(0, self.size, _PIECE_BYTES):
            pool = _noise() if noise.random() < _NOISE_SHARE else _words()
            start = noise.randrange(_POOL_BYTES - _PIECE_BYTES)
            pieces.append(pool[start : start + _PIECE_BYTES])
        return b"".join(pieces)[: self.size]


@cache
def _noise() -> bytes:
    return random.Random(1).randbytes(_POOL_BYTES)  # noqa: S311 (the same each time)


@cache
def _words() -> bytes:
    """Return lines of made-up words, some of which are frequent; every third line was there just before."""
    noise = random.Random(2)  # noqa: S311 (the same each time)
    vocabulary = [noise.randbytes(noise.randint(1, 5)).hex() for _ in range(4_000)]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(vocabulary))))
    lines: list[str] = []
    for _ in range(_POOL_BYTES // 40):
        repeats = len(lines) > 50 and noise.random() < 0.35
        words = noise.choices(vocabulary, cum_weights=weights, k=12)
        lines.append(noise.choice(lines[-50:]) if repeats else " ".join(words))
    return "\n".join(lines).encode()[:_POOL_BYTES]


def samples(count: int, size: int) -> list[Sample]:
    """Return `count` files of about `size` bytes in all, the smallest first."""
    normal = statistics.NormalDist(0, _SPREAD)
    raw = [2.718 ** normal.inv_cdf((number + 0.5) / count) for number in range(count)]
    scale = size / sum(raw)
    for _ in range(20):  # what is cut off from the largest goes to the others
        sizes = [min(max(int(item * scale), _LEAST_BYTES), _MOST_BYTES) for item in raw]
        scale *= size / sum(sizes)
    return [Sample(number, size) for number, size in enumerate(sizes)]


def versions(first: Sequence[Sample], count: int) -> Iterator[list[Sample]]:
    """Yield `count` versions, in each of which another tenth of the files is new, of every size."""
    current = list(first)
    for version in range(count):
        if version:
            current = [renewed(sample, version) for sample in current]
        yield current


def renewed(sample: Sample, version: int) -> Sample:
    """Return the file as `version` has it, which changes a tenth of all files."""
    turn = sample.number % (2 * _CHANGED)  # there and back, or every version would change more bytes than that before
    if min(turn, 2 * _CHANGED - 1 - turn) != version % _CHANGED:
        return sample
    return Sample(sample.number, sample.size, sample.generation + 1)
