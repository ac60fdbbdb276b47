"""Space: what the store takes, how much it may, and what is left; bytes, and files where the file system counts them.

With a limit of its own the store is measured by what it holds, which costs a look at each file; else by its file
system, in constant time.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from csi_oras.store.paths import StatePaths, store_errors

BLOCK = 512
"""What st_blocks counts in, whatever the file system."""
_MARGIN_BYTES = 16 << 20
"""What a file system keeps free beside what is pulled, for the database and for directories."""
_PERCENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """How large the store may grow (0 bytes: as its file system), and from where to where it is tidied, in percent.

    What was used in the last `min_age` seconds stays.
    """

    max_bytes: int
    high_watermark: int
    low_watermark: int
    min_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Bytes that there are, that are used and that a pull may take; how many files it may make, and the part in use."""

    capacity: int
    used: int
    available: int
    files: float
    files_used: float
    limits: StoreLimits

    @property
    def is_high(self) -> bool:
        """Whether the store should be tidied."""
        high = self.limits.high_watermark
        return self.used * _PERCENT > self.capacity * high or self.files_used * _PERCENT > high

    @property
    def has_many_files(self) -> bool:
        """Whether more of the file system's inodes are in use than the low watermark says."""
        return self.files_used * _PERCENT > self.limits.low_watermark

    @property
    def excess(self) -> int:
        """Bytes above the low watermark."""
        return max(0, self.used - self.capacity * self.limits.low_watermark // _PERCENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUsage:
    """Number of blobs, and bytes on disk of blobs, of unpacked files, of unfinished blobs, and of what is corrupt."""

    blobs: int
    verified: int
    objects: int
    unfinished: int
    quarantined: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.verified + self.objects + self.unfinished + self.quarantined


class SpaceMeter:
    """Measures the store."""

    def __init__(self, paths: StatePaths, limits: Callable[[], StoreLimits]) -> None:
        """Measure against `limits`, as they are in force at the moment."""
        self._paths = paths
        self.limits = limits

    def measure(self) -> Space:
        """Return what there is now.

        Raises:
            StoreBrokenError: the store fails.
        """
        limits = self.limits()
        with store_errors("store"):
            status = os.statvfs(self._paths.root)
        free = status.f_bavail * status.f_frsize
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        capacity = used + free  # as df has it: what is reserved for root is nobody's
        available = free - _MARGIN_BYTES
        if limits.max_bytes:
            used = self.usage().total
            capacity, available = limits.max_bytes, min(available, limits.max_bytes - used)
        return Space(
            capacity=capacity,
            used=used,
            available=available,
            files=status.f_favail if status.f_files else float("inf"),  # btrfs makes them as they are wanted
            files_used=1 - status.f_favail / status.f_files if status.f_files else 0,
            limits=limits,
        )

    def usage(self) -> StoreUsage:
        """Count what is here; the cost grows with the number of files.

        Raises:
            StoreBrokenError: the store fails.
        """
        with store_errors("store"):
            blobs = [size for directory in self._paths.blobs_by_algorithm for size in _sizes(str(directory))]
            return StoreUsage(
                blobs=len(blobs),
                verified=sum(blobs),
                objects=sum(_sizes(str(self._paths.objects))),
                unfinished=sum(_sizes(str(self._paths.ingests))),
                quarantined=sum(_sizes(str(self._paths.quarantine))),
            )


def _sizes(directory: str) -> Iterator[int]:
    """Yield the bytes on disk of each file in a directory; what goes meanwhile has none."""
    for entry in os.scandir(directory):
        try:
            yield entry.stat(follow_symlinks=False).st_blocks * BLOCK
        except FileNotFoundError:
            continue
