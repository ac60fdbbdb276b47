"""Quarantine: what has rotted leaves the store at once, and with it every tree that shows it.

A rename does it: mounts of a tree live on, and whoever comes next finds neither, and gets both anew. Nobody can bring
them back: whoever counts on an object has a link to it in staging, which goes, and a tree in the making that has such a
link is never finished; its pull is tried again. What nobody has mounted any more is freed. As everywhere in the store,
hard links are the reference counts.
"""

import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csi_oras.oci.digest import Digest
from csi_oras.store.objects import objects_locked
from csi_oras.store.paths import StatePaths, fsync_directory, store_errors
from csi_oras.store.space import BLOCK
from csi_oras.store.staging import staging

_NAME = re.compile(r"(blob|object|tree)-(sha256|sha512)-([0-9a-f]+)-[0-9a-f]{16}")
_TREE = "tree"
_GRACE_SECONDS = 60.0
"""How long a tree stays, mounted or not: a mount of it may be made, and not be at its place yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """A blob or object that has rotted, by its name here; plans of the trees that show it, by the trees' names here."""

    name: str
    kind: str
    digest: Digest
    trees: dict[str, Digest]


class Quarantine:
    """What has rotted and is still shown to somebody."""

    def __init__(self, paths: StatePaths, grace: float = _GRACE_SECONDS) -> None:
        self._paths = paths
        self._grace = grace

    def take(self, kind: str, digest: Digest, path: Path, inode: int = 0) -> bool:
        """Take a `blob` or `object` out of the store with every tree that shows it; False if it is gone by now.

        With `inode`, whatever has taken its place meanwhile is left alone.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        with store_errors(f"{kind} {digest}"), objects_locked(self._paths, fcntl.LOCK_EX):
            try:
                if inode and path.lstat().st_ino != inode:
                    return False
                path.rename(self._place(kind, digest))
            except FileNotFoundError:
                return False
            self._isolate()
            fsync_directory(self._paths.quarantine)
        return True

    def finish(self) -> None:
        """Take the trees out of the store that a killed process has left there.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        with store_errors("quarantine"):
            if not any(self._content()):  # a start waits for no pull that lays out a tree
                return
        with store_errors("quarantine"), objects_locked(self._paths, fcntl.LOCK_EX):
            self._isolate()

    def found(self, known: Collection[str] = ()) -> list[Corruption]:
        """Return what is here but for what is `known` by its name.

        Raises:
            StoreBrokenError: the store fails.
        """
        with store_errors("quarantine"):
            if all(path.name in known for path, _, _ in self._content()):
                return []
        with store_errors("quarantine"), objects_locked(self._paths, fcntl.LOCK_SH):
            content = [item for item in self._content() if item[0].name not in known]
            trees = [(path, plan) for path, kind, plan in self._entries() if kind == _TREE]
            return [
                Corruption(
                    name=path.name,
                    kind=kind,
                    digest=digest,
                    trees={tree.name: plan for tree, plan in trees if _shows(tree, {path.lstat().st_ino})},
                )
                for path, kind, digest in content
            ]

    def sweep(self, shown: Callable[[], Collection[str]]) -> int:
        """Free what no mount shows any more, and return the bytes on disk; `shown` returns names in the quarantine.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        before, freed = time.time() - self._grace, 0
        with store_errors("quarantine"):
            if not any(self._entries()):
                return 0
        with store_errors("quarantine"), objects_locked(self._paths, fcntl.LOCK_EX):
            old = [entry for entry in self._entries() if entry[0].lstat().st_ctime <= before]
            trees = [path for path, kind, _ in old if kind == _TREE]
            mounted = shown() if trees else ()
            for tree in trees:
                if tree.name not in mounted:
                    with staging(self._paths) as directory:
                        _move(tree, directory / tree.name)
            for path, kind, _ in old:
                status = path.lstat() if kind != _TREE else None
                if status and status.st_nlink == 1:
                    path.unlink()
                    freed += status.st_blocks * BLOCK
        return freed

    def _entries(self) -> Iterator[tuple[Path, str, Digest]]:
        for path in self._paths.quarantine.iterdir():
            if match := _NAME.fullmatch(path.name):
                yield path, match[1], Digest(match[2], match[3])

    def _content(self) -> Iterator[tuple[Path, str, Digest]]:
        return (entry for entry in self._entries() if entry[1] != _TREE)

    def _place(self, kind: str, digest: Digest) -> Path:
        """Return a new name: the same content may rot twice, and each is shown to somebody."""
        return self._paths.quarantine / f"{kind}-{digest.algorithm}-{digest.encoded}-{secrets.token_hex(8)}"

    def _isolate(self) -> None:
        """Take away whatever links to what is here; staging first, for what is made there becomes a tree."""
        status = [path.lstat() for path, _, _ in self._content()]
        inodes = {found.st_ino for found in status if found.st_nlink > 1}
        if not inodes:
            return
        for directory in self._paths.staging.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):
                _spoil(directory, inodes)
        for tree in self._paths.trees.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):  # it was collected, or is none
                if _shows(tree, inodes):
                    _move(tree, self._place(_TREE, Digest("sha256", tree.name)))


def _spoil(directory: Path, inodes: set[int]) -> None:
    """See to it that nothing with one of `inodes` can come out of a staging directory."""
    for path in directory.iterdir():
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            if _shows(path, inodes):
                _move(path, directory / secrets.token_hex(8))
        elif status.st_ino in inodes:
            path.unlink()


def _shows(tree: Path, inodes: set[int]) -> bool:
    """Say whether a tree links to one of `inodes`; its directories say it, and no file is looked at."""
    waiting = [os.fspath(tree)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.inode() in inodes:
                    return True
    return False


def _move(tree: Path, target: Path) -> None:
    try:
        tree.rename(target)
    except PermissionError:  # whoever is not root cannot rename what he cannot write
        tree.chmod(0o700)
        tree.rename(target)
