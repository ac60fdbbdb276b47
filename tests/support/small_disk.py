"""A file system that is too small, for a store to stand on."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MIB = 1 << 20


class SmallDisk:
    """A tmpfs that can be filled, emptied and grown."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ballast = directory / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        with self.ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(_MIB)):
                    pass
            except OSError:
                return

    def clear(self) -> None:
        """Free what was filled."""
        self.ballast.unlink()

    def grow(self, size: str) -> None:
        """Make it larger."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.directory], check=True)

    def limit_inodes(self, count: int) -> None:
        """Let it have so many files at most."""
        subprocess.run(["mount", "-o", f"remount,nr_inodes={count}", self.directory], check=True)


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a tmpfs of `size` on a new directory."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
