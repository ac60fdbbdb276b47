"""What this process has open."""

import os
from contextlib import suppress
from pathlib import Path


def opened_below(directory: Path) -> list[str]:
    """Return the paths in a directory that this process has open, one for each descriptor.

    Those of others do not count: what earlier tests have left behind may be closed at any moment.
    """
    found = []
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 (names, and one of them is that of the listing)
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115 (it need not be a path)
    return [path for path in found if Path(path).is_relative_to(directory)]
