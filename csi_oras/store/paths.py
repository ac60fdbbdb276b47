"""Where things stand below the state directory, and what an operating system error there means.

Only digests become path components; no text from outside ever does.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from csi_oras.errors import NoSpaceError, StoreBrokenError
from csi_oras.oci.digest import Digest

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_REMEDIES: dict[type, str] = {
    PermissionError: "be root, as the driver is",
    FileExistsError: "have a directory there",
    NotADirectoryError: "have a directory there",
}


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The state directory and what is in it; one file system, 0700, outside every image store."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make the directories that are missing.

        Raises:
            StoreBrokenError: they cannot be made.
        """
        paths = cls(root.absolute())
        with store_errors(f"state directory {root}"):
            _close_to_others(paths.root)
            content = (paths.blobs, paths.ingests, paths.objects, paths.quarantine)
            for directory in (paths.root, *content, paths.trees, paths.staging, paths.removed, paths.views):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in paths.blobs_by_algorithm:
                directory.mkdir(mode=0o700, exist_ok=True)
        return paths

    @property
    def blobs(self) -> Path:
        """Verified blobs, by algorithm."""
        return self.root / "blobs"

    @property
    def blobs_by_algorithm(self) -> tuple[Path, ...]:
        """The directories in which blobs are, each named for the algorithm of their digests."""
        return self.blobs / "sha256", self.blobs / "sha512"

    @property
    def ingests(self) -> Path:
        """Unfinished blobs."""
        return self.root / "ingest"

    @property
    def trees(self) -> Path:
        """Plans laid out."""
        return self.root / "trees"

    @property
    def objects(self) -> Path:
        """Files that came out of archives, by content and mode."""
        return self.root / "objects" / "sha256"

    @property
    def indexes(self) -> Path:
        """Chunk indexes that the node has made itself, by algorithm and digest of their blobs."""
        return self.root / "indexes"

    @property
    def lazy(self) -> Path:
        """What lazy volumes need after a restart of the driver."""
        return self.root / "lazy"

    @property
    def views(self) -> Path:
        """Links by name to what is here, for people."""
        return self.root / "views"

    @property
    def staging(self) -> Path:
        """Trees and objects in the making; never mounted."""
        return self.root / "staging"

    @property
    def removed(self) -> Path:
        """What a collection has moved away and not removed yet; it is there before the disk is full."""
        return self.root / "removed"

    @property
    def quarantine(self) -> Path:
        """What has rotted, and the trees that show it, as long as anybody has them mounted."""
        return self.root / "quarantine"

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.root / "state.db"

    @property
    def driver_lock(self) -> Path:
        """What the driver has locked as long as it lives."""
        return self.root / "driver.lock"

    @property
    def grant_key(self) -> Path:
        """The key that credentials are hashed with."""
        return self.root / "grant.key"

    def blob(self, digest: Digest) -> str:
        """Where a verified blob is; a text, as below: there are thousands, and a Path costs more than the call."""
        return f"{self.root}/blobs/{digest.algorithm}/{digest.encoded}"

    def object(self, digest: Digest, mode: int) -> str:
        """Where a file with this content and mode is."""
        return f"{self.root}/objects/{digest.algorithm}/{digest.encoded}-{mode:04o}"

    def ingest(self, digest: Digest, source: str = "") -> str:
        """Where the bytes of an unfinished blob are that come from `source`; its extents are beside it."""
        suffix = f"-{hashlib.sha256(source.encode()).hexdigest()[:32]}" if source else ""
        return f"{self.root}/ingest/{digest.encoded}{suffix}"

    def tree(self, plan: Digest) -> Path:
        """Where a plan is laid out."""
        return self.trees / plan.encoded


def _close_to_others(root: Path) -> None:
    """Make a new state directory 0700 that others have made for us: the kubelet makes a hostPath 0755.

    One that holds anything is left as it is, for it may be named by mistake.
    """
    if root.is_dir() and root.stat().st_uid == os.geteuid() and set(os.listdir(root)) <= {"lost+found"}:  # noqa: PTH208
        root.chmod(0o700)


@contextmanager
def store_errors(subject: str) -> Iterator[None]:
    """Translate what the operating system says about the store.

    Raises:
        NoSpaceError: the file system or a quota is full, of bytes or of inodes.
        StoreBrokenError: anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise NoSpaceError(
                subject, "the store's file system is full", "make room or give it a larger one"
            ) from error
        remedy = _REMEDIES.get(type(error), "look at the node's disk")
        raise StoreBrokenError(subject, f"the store fails ({error.strerror})", remedy) from error


def fsync_directory(directory: str | Path) -> None:
    """Make renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
