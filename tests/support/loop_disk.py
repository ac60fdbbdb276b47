"""A file system of its own kind in a file, for a store to stand on."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MIB = 1 << 20


@contextmanager
def loop_disk(directory: Path, *mkfs: str, mebibytes: int = 128) -> Iterator[Path]:
    """Make a file system with a command, mount it on a new directory, and yield the file that it is in."""
    image = directory.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mebibytes * _MIB)
    subprocess.run([*mkfs, image], check=True, stdout=subprocess.DEVNULL)
    directory.mkdir()
    subprocess.run(["mount", "-o", "loop", image, directory], check=True)
    try:
        yield image
    finally:
        subprocess.run(["umount", "-l", directory], check=True)
        image.unlink()
