"""Exports: the files of a captured volume as a directory, for people who cannot or will not have it pushed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from csi_oras.errors import InvalidRequestError
from csi_oras.oci.name import Name
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import File, Link
from csi_oras.pack.merge import Carried, Merged, merge
from csi_oras.pack.survey import Volume
from csi_oras.pack.walk import SourceFile, WalkLimits, given, written

NO_LIMITS = WalkLimits(entries=1 << 62, size=1 << 62)
_BLOCK_BYTES = 1 << 20


def export(opened: Volume, directory: Path) -> Merged:
    """Copy what a volume showed last to a new or empty directory, and return what there is.

    What cannot be carried is not copied. Links are made last, so that nothing is ever written through one.

    Raises:
        InvalidRequestError: the directory is not empty, or cannot be written.
        UnobtainableError: the volume cannot be read.
    """
    everything = Selection()
    base = () if opened.tree is None else given(opened.tree, everything, frozenset(), opened.subject)
    merged = merge(base, written(opened.upper, everything, NO_LIMITS, opened.subject), everything)
    with new_directory(directory):
        for name, found in sorted(merged.entries.items(), key=lambda entry: isinstance(entry[1], Link)):
            _copy(opened, name, found, directory)
    return merged


def _copy(opened: Volume, name: Name, found: Carried, directory: Path) -> None:
    path = directory.joinpath(*name.components)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, Link):
        path.symlink_to(found.target)
    elif isinstance(found, File):
        mode = 0o755 if found.is_executable else 0o644
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(made, "wb") as target, opened.open(name, found) as source:
            _copy_data(source, target, found.size)
    else:
        path.mkdir(exist_ok=True)


def _copy_data(source: SourceFile, target: BinaryIO, size: int) -> None:
    """Copy a file and leave its holes out: there may be more of them than any disk holds."""
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    for start, end in _data(source, size):
        source.seek(start)
        target.seek(start)
        while count := source.readinto(buffer[: end - target.tell()]):
            target.write(buffer[:count])
    target.truncate(size)
    source.seek(size)
    source.read(1)  # sees to it that the file is what was found, however it ends


def _data(source: SourceFile, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, from and to."""
    end = 0
    while end < size:
        try:
            start = source.seek(end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole follows
                raise
            return
        end = min(source.seek(start, os.SEEK_HOLE), size)
        yield start, end


@contextmanager
def new_directory(directory: Path) -> Iterator[None]:
    """Write into a directory in a with statement; it is made, or has to be empty.

    Raises:
        InvalidRequestError: it is not empty, or cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InvalidRequestError(f"directory {directory}", "is not empty", "name a new one")
        yield
    except OSError as error:
        cause = f"cannot be written ({error.strerror})"
        raise InvalidRequestError(f"directory {directory}", cause, "use another directory") from error
