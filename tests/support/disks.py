"""File systems of a test's own, in a file on a loop device; both are gone when the test ends, however it ends."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 320 << 20
"""The least that mkfs.xfs makes is 300 MiB; the file is sparse."""


@contextmanager
def disk(kind: str, directory: Path) -> Iterator[Path]:
    """Make a file system of a `kind` that mkfs knows, mount it below `directory`, and return where."""
    image, mounted = directory / f"{kind}.img", directory / kind
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(_BYTES)
    try:
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", "-l", mounted], check=True)
    finally:
        image.unlink()
