"""Sharing: what artifacts take on disk, and what is saved because files are stored once. It looks, and changes nothing.

Each file of a tree is a hard link to a blob or to an object, so that one with n links beside its own name is shown
n times and stored once. A clone is a file of its own that has its blocks in common with a blob.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from csi_oras import kernel
from csi_oras.oci.digest import Digest
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.space import BLOCK

_BLOB_MODE = "0444"
"""Of what shows a blob by a link, and needs no clone."""


@dataclass(slots=True)
class Files:
    """A count of files, their bytes on disk, the bytes that trees show of them, and those that links save on disk."""

    count: int = 0
    size: int = 0
    shown: int = 0
    saved: int = 0

    def add(self, status: os.stat_result) -> None:
        """Count a file that has one name of its own, and others in trees."""
        size, times = status.st_blocks * BLOCK, status.st_nlink - 1
        self.count += 1
        self.size += size
        self.shown += times * status.st_size
        self.saved += max(times - 1, 0) * size


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What the store holds, in bytes; `hidden` are the blobs that no tree shows, such as layers that were unpacked."""

    blobs: Files = field(default_factory=Files)
    hidden: Files = field(default_factory=Files)
    objects: Files = field(default_factory=Files)
    unfinished: int = 0
    saved_by_reflinks: int = 0

    @property
    def shown(self) -> int:
        """The bytes that trees show."""
        return self.blobs.shown + self.objects.shown

    @property
    def saved_by_links(self) -> int:
        """The bytes that it would take more on disk if each file of a tree had its own."""
        return self.blobs.saved + self.objects.saved


def measure(paths: StatePaths) -> Sharing:
    """Look at each blob and object.

    Raises:
        StoreBrokenError: the store fails.
    """
    blobs, hidden, objects = Files(), Files(), Files()
    with store_errors("store"):
        for _, status in _blobs(paths):
            blobs.add(status)
            if status.st_nlink == 1:
                hidden.add(status)
        for _, status in _objects(paths):
            objects.add(status)
        unfinished = sum(status.st_blocks * BLOCK for _, status in _entries(str(paths.ingests)))
        cloned = sum(_clones(paths).values())
    return Sharing(blobs=blobs, hidden=hidden, objects=objects, unfinished=unfinished, saved_by_reflinks=cloned)


def on_disk(paths: StatePaths) -> int:
    """Return the bytes that the state directory takes: each file once, directories and the database with them.

    Raises:
        StoreBrokenError: the store fails.
    """
    with store_errors("store"):
        sizes = {status.st_ino: status.st_blocks * BLOCK for status in _below(str(paths.root))}
        return sum(sizes.values()) - sum(_clones(paths).values())


def local_bytes(paths: StatePaths, database: Database) -> dict[str, int]:
    """Return for each artifact, by its digest, the bytes that a volume can see of it now, at most.

    Without a tree there are none, but what has come of it by now if a lazy volume reads it.

    Raises:
        StoreBrokenError: the store fails.
    """
    with store_errors("store"):
        trees = {f"sha256:{entry.name}" for entry in os.scandir(paths.trees)}
    local = _lazy_bytes(paths, database)
    for artifact, plan, size in database.query("SELECT artifact, plan, bytes FROM plans"):
        if plan in trees:
            local[artifact] = max(size, local.get(artifact, 0))
    return local


def _lazy_bytes(paths: StatePaths, database: Database) -> dict[str, int]:
    """Return what is here of the artifacts that lazy volumes read, by the leases of those."""
    held = (
        "SELECT DISTINCT l.holder, a.digest FROM leases l JOIN artifacts a USING (digest) WHERE l.holder LIKE 'lazy %'"
    )
    return {
        artifact: sum(
            _here(paths, Digest.parse(digest))
            for (digest,) in database.query(
                "SELECT digest FROM leases WHERE holder = ? AND digest != ?", holder, artifact
            )
        )
        for holder, artifact in database.query(held)
    }


def _here(paths: StatePaths, digest: Digest) -> int:
    """Return how much of a blob is here, by what the largest of its files takes of the disk."""
    with suppress(FileNotFoundError):
        return os.stat(paths.blob(digest)).st_size  # noqa: PTH116 (a text)
    unfinished = paths.ingests.glob(f"{digest.encoded}*")
    return max((path.stat().st_blocks * BLOCK for path in unfinished), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One artifact: the bytes that its trees show, and on disk those that go with it and those that others have too."""

    shown: int
    own: int
    shared: int


class Shares:
    """Measures artifacts, in the store as it is when this is made."""

    def __init__(self, paths: StatePaths, database: Database) -> None:
        """Look at each blob and object.

        Raises:
            StoreBrokenError: the store fails.
        """
        self._paths = paths
        self._query = database.query
        owners = dict(self._query("SELECT digest, count(*) FROM contents GROUP BY digest"))
        trees = self._query("SELECT plan FROM plans GROUP BY plan HAVING count(DISTINCT artifact) > 1")
        self._common = {digest for digest, count in owners.items() if count > 1} | {plan for (plan,) in trees}
        with store_errors("store"):
            self._clones = _clones(paths)
            self._loose = {status.st_ino for _, status in _objects(paths)}
            self._loose |= {status.st_ino for digest, status in _blobs(paths) if digest not in owners}

    def of(self, artifact: Digest) -> Share:
        """Measure an artifact's trees and blobs.

        Raises:
            StoreBrokenError: the store fails.
        """
        tally = _Tally(self._loose, self._clones)
        plans = self._query("SELECT DISTINCT plan FROM plans WHERE artifact = ?", str(artifact))
        blobs = self._query("SELECT digest FROM contents WHERE artifact = ?", str(artifact))
        with store_errors("store"):
            for (plan,) in plans:
                for status in _below(str(self._paths.tree(Digest.parse(plan)))):
                    tally.add(status, goes=plan not in self._common)
                    tally.shown += status.st_size if stat.S_ISREG(status.st_mode) else 0
            for (blob,) in blobs:
                with suppress(FileNotFoundError):
                    tally.add(os.lstat(self._paths.blob(Digest.parse(blob))), goes=blob not in self._common)
        return tally.share


@dataclass(slots=True)
class _Counted:
    """Bytes on disk, and how many of the links to them stay when the artifact goes."""

    size: int
    staying: int


class _Tally:
    """Counts the links of an artifact: what has no others goes with it."""

    def __init__(self, loose: set[int], clones: dict[int, int]) -> None:
        """Files in `loose` have one link that goes by itself, those in `clones` share that many bytes with a blob."""
        self.shown = 0
        self._loose = loose
        self._clones = clones
        self._found: dict[int, _Counted] = {}

    def add(self, status: os.stat_result, *, goes: bool) -> None:
        """Count one link."""
        number = status.st_ino
        if number not in self._found:
            links = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink - (number in self._loose)
            self._found[number] = _Counted(status.st_blocks * BLOCK - self._clones.get(number, 0), links)
        self._found[number].staying -= goes

    @property
    def share(self) -> Share:
        """What was counted."""
        own = sum(found.size for found in self._found.values() if found.staying <= 0)
        return Share(shown=self.shown, own=own, shared=sum(found.size for found in self._found.values()) - own)


def _blobs(paths: StatePaths) -> Iterator[tuple[str, os.stat_result]]:
    """Yield blobs by their digests."""
    for directory in paths.blobs_by_algorithm:
        for entry, status in _entries(str(directory)):
            yield f"{directory.name}:{entry.name}", status


def _objects(paths: StatePaths) -> Iterator[tuple[str, os.stat_result]]:
    """Yield objects by their paths."""
    for entry, status in _entries(str(paths.objects)):
        yield entry.path, status


def _clones(paths: StatePaths) -> dict[int, int]:
    """Return objects by their numbers, with the bytes on disk that each has in common with the blob of its digest."""
    clones = {}
    for entry in os.scandir(paths.objects):
        digest, _, mode = entry.name.partition("-")
        if mode != _BLOB_MODE and (common := _in_common(f"{paths.blobs}/sha256/{digest}", entry.path)):
            clones[entry.inode()] = common
    return clones


def _in_common(blob: str, clone: str) -> int:
    with suppress(OSError), open(blob, "rb") as ours, open(clone, "rb") as theirs:  # noqa: PTH123 (there are thousands)
        places = kernel.shared_extents(ours.fileno())
        return sum(size for _, size in places & kernel.shared_extents(theirs.fileno())) if places else 0
    return 0  # there is no such blob, or the file system shares nothing


def _below(path: str) -> Iterator[os.stat_result]:
    """Yield a directory and whatever is below it, as far as it stays; no link is followed."""
    with suppress(FileNotFoundError):
        yield os.lstat(path)
        for entry, status in _entries(path):
            if stat.S_ISDIR(status.st_mode):
                yield from _below(entry.path)
            else:
                yield status


def _entries(directory: str) -> Iterator[tuple["os.DirEntry[str]", os.stat_result]]:
    """Yield what is in a directory with its status; what goes meanwhile is not there."""
    for entry in os.scandir(directory):
        with suppress(FileNotFoundError):
            yield entry, entry.stat(follow_symlinks=False)
