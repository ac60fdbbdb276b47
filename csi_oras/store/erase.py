"""Erasing directories that pods have written, however deep and wide, in bounded memory."""

import os
import secrets
from contextlib import suppress
from itertools import islice
from pathlib import Path

from csi_oras.telemetry.logs import logger

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE = 1000
"""Names of a directory that are held while it is emptied."""


def erase(directory: Path) -> None:
    """Remove a directory with all that is in it; what stays is logged, and removed by whoever looks next."""
    try:
        with suppress(FileNotFoundError):
            root = os.open(directory, _DIRECTORY)
            try:
                _empty(root)
            finally:
                os.close(root)
            directory.rmdir()
    except OSError as error:
        logger.warning("something stays of what was removed", directory=directory.name, cause=error.strerror)


def _empty(root: int) -> None:
    """Empty a directory: what is in the directories of it comes up to it, so that nothing is ever deep."""
    while True:
        with os.scandir(root) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _AT_ONCE)]
        if not names:
            return
        for name, is_directory in names:
            if is_directory:
                _raise_content(name, root)
                os.rmdir(name, dir_fd=root)
            else:
                os.unlink(name, dir_fd=root)


def _raise_content(name: str, root: int) -> None:
    """Move the directories in a directory up to the root, under names of our own, and remove all else in it."""
    here = os.open(name, _DIRECTORY, dir_fd=root)
    try:
        while True:
            with os.scandir(here) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, _AT_ONCE)]
            if not found:
                return
            for inner, is_directory in found:
                if is_directory:
                    os.rename(inner, secrets.token_hex(16), src_dir_fd=here, dst_dir_fd=root)
                else:
                    os.unlink(inner, dir_fd=here)
    finally:
        os.close(here)
