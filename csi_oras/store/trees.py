"""Trees: plans laid out on disk, read-only, made of hard links to blobs.

A tree is made in private staging and becomes visible by one rename. Links and renames of one file system are
journalled in order, so a tree that survives a power cut is whole; nothing in it needs a sync of its own.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.store.content import ContentStore
from csi_oras.store.paths import StatePaths, store_errors

_DIRECTORY_MODE = 0o555


class TreeStore:
    """Trees by the digest of their plan."""

    def __init__(self, paths: StatePaths, content: ContentStore) -> None:
        self._paths = paths
        self._content = content

    def path(self, plan: Digest) -> Path:
        """Where the tree of a plan is, if it is there."""
        return self._paths.tree(plan)

    def has(self, plan: Digest) -> bool:
        """Say whether the plan is laid out."""
        return self.path(plan).is_dir()

    def lay_out(self, plan: Plan) -> Path:
        """Return the tree of `plan`, made now if it is not there.

        Raises:
            StoreBrokenError: a blob of it is not in the store, or the store fails.
            NoSpaceError: the disk is full.
        """
        target = self.path(plan.digest)
        if target.is_dir():
            return target
        with store_errors(f"tree {plan.digest.short}"):
            staging, lock = self._new_staging()
            try:
                tree = staging / "tree"
                self._fill(tree, plan)
                _publish(tree, target)
            finally:
                _remove(staging)
                os.close(lock)
        return target

    def _new_staging(self) -> tuple[Path, int]:
        """Return a new directory and the descriptor that keeps it locked; a sweep may take it before the lock does."""
        while True:
            staging = Path(tempfile.mkdtemp(dir=self._paths.staging))
            with suppress(FileNotFoundError):
                lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.fstat(lock).st_nlink:
                    return staging, lock
                os.close(lock)

    def _fill(self, tree: Path, plan: Plan) -> None:
        tree.mkdir(mode=0o755)
        made = {tree}
        for entry in plan.entries:
            place = tree / str(entry.name)
            if place.parent not in made:
                place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                made.add(place.parent)
            self._place(entry.blob.digest, place)
        for directory, _, _ in os.walk(tree):
            if directory != str(tree):  # whoever is not root cannot rename what he cannot write
                os.chmod(directory, _DIRECTORY_MODE)  # noqa: PTH101 (os.walk gives text)

    def _place(self, digest: Digest, place: Path) -> None:
        blob = self._content.path(digest)
        try:
            place.hardlink_to(blob)
        except FileNotFoundError:
            raise StoreBrokenError(
                f"blob {digest}", "is not in the store", "it is fetched with the next attempt"
            ) from None
        except OSError as error:
            if error.errno != errno.EMLINK:  # ext4 allows 65,000 links of one file
                raise
            shutil.copyfile(blob, place)
            place.chmod(0o444)

    def sweep(self) -> None:
        """Remove staging that a crash left behind; what a living process works on is locked."""
        for staging in self._paths.staging.iterdir():
            try:
                descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):  # finished meanwhile, or none of ours
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(staging)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


def _publish(tree: Path, target: Path) -> None:
    try:
        tree.rename(target)
        target.chmod(_DIRECTORY_MODE)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was first with the same tree
            raise


def _remove(staging: Path) -> None:
    for directory, _, _ in os.walk(staging):
        os.chmod(directory, 0o700)  # noqa: PTH101 (os.walk gives text)
    shutil.rmtree(staging, ignore_errors=True)
