"""Objects: files that came out of archives, by content and mode, shared by every tree that shows them.

They are committed in one group when the archives of a tree have been read: one sync for all of them, then
their names. Until then nobody else can see them, and what is there is never replaced.

What no tree shows any more is collected, which the number of its links tells. So a group has a link of its own to each
object that it counts on, and whoever shows objects holds the lock that is held to remove any.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from csi_oras import kernel
from csi_oras.errors import StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.view import File
from csi_oras.store.clones import clone
from csi_oras.store.paths import StatePaths, fsync_directory, store_errors
from csi_oras.store.staging import staging

_SMALL_BYTES = 1 << 20
"""What is hashed before it is written, for it may be there already."""
_PIECE_BYTES = 1 << 20


class ObjectStore:
    """The objects that are committed."""

    def __init__(self, paths: StatePaths, seal: Callable[[str], None] = lambda _: None) -> None:
        """Keep objects below `paths`; `seal` is told of the path of each that is committed, and does not wait."""
        self._paths = paths
        self._seal = seal

    @contextmanager
    def batch(self) -> Iterator["ObjectBatch"]:
        """Open a group of objects in a with statement; what is not committed by its end is gone.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        with store_errors("unpacked files"), staging(self._paths) as directory:
            yield ObjectBatch(self._paths, directory, self._seal)


class ObjectBatch:
    """New objects in private staging."""

    def __init__(self, paths: StatePaths, directory: Path, seal: Callable[[str], None]) -> None:
        self._paths = paths
        self._seal = seal
        self._directory = directory
        self._new: dict[str, int] = {}
        """Where each object belongs, and the number that is its name until then: there may be a million of them."""
        self._written = 0
        self._is_fresh = False

    def add(self, content: Iterable[memoryview], size: int, mode: int) -> File:
        """Keep a file's content, and return the file.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        with store_errors("unpacked files"):
            digest = self._add_small(content, mode) if size <= _SMALL_BYTES else self._add_large(content, mode)
        return File(digest, size, mode)

    def add_blob(self, blob: Descriptor, mode: int) -> File:
        """Keep what is in a blob, which is proven, as a file with a mode of its own, and return the file.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the blob is not there, or the store fails.
        """
        source = self._paths.blob(blob.digest)
        with store_errors(f"blob {blob.digest}"):
            if blob.digest.algorithm != "sha256":  # objects go by that one
                with Path(source).open("rb") as file:
                    return self.add(iter(lambda: memoryview(file.read(_PIECE_BYTES)), b""), blob.size, mode)
            target = self._paths.object(blob.digest, mode)
            if target not in self._new and not self._is_held(target):
                self._new[target] = self._clone(source, blob, mode)
                self._is_fresh = True
        return File(blob.digest, blob.size, mode)

    def _clone(self, source: str, blob: Descriptor, mode: int) -> int:
        self._written += 1
        size = clone(source, self._temporary(self._written), mode)
        if size != blob.size:
            cause = f"has {size} bytes in the store instead of {blob.size}"
            raise StoreBrokenError(f"blob {blob.digest}", cause, "look at the node's disk")
        return self._written

    def _add_small(self, content: Iterable[memoryview], mode: int) -> Digest:
        data = b"".join(content)
        digest = Digest("sha256", hashlib.sha256(data).hexdigest())
        target = self._paths.object(digest, mode)
        if target not in self._new and not self._is_held(target):
            self._new[target] = self._write([memoryview(data)], mode)
            self._is_fresh = True
        return digest

    def _add_large(self, content: Iterable[memoryview], mode: int) -> Digest:
        hasher = hashlib.sha256()

        def hashed() -> Iterator[memoryview]:
            for piece in content:
                hasher.update(piece)
                yield piece

        temporary = self._write(hashed(), mode)
        digest = Digest("sha256", hasher.hexdigest())
        target = self._paths.object(digest, mode)
        if target in self._new or self._is_held(target):
            Path(self._temporary(temporary)).unlink()
        else:
            self._new[target] = temporary
            self._is_fresh = True
        return digest

    def _is_held(self, target: str) -> bool:
        """Take a link of our own to an object that is there; one that has as many as can be is in no danger."""
        self._written += 1
        try:
            os.link(target, self._temporary(self._written))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
        else:
            self._new[target] = self._written
        return True

    def _temporary(self, number: int) -> str:
        return f"{self._directory}/{number}"

    def _write(self, content: Iterable[memoryview], mode: int) -> int:
        self._written += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._temporary(self._written), flags, 0o600)
        try:
            for piece in content:
                while piece:
                    piece = piece[os.write(descriptor, piece) :]  # noqa: PLW2901 (what is left of it)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        return self._written

    @contextmanager
    def committed(self) -> Iterator[None]:
        """Make all objects of the group visible, durably; in the with statement none of them is collected.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        if not self._new:
            yield
            return
        with store_errors("unpacked files"):
            if self._is_fresh:
                self._sync()
            with objects_locked(self._paths, fcntl.LOCK_SH):
                for target, temporary in self._new.items():
                    with suppress(FileExistsError):  # what is there is never replaced: trees have it
                        os.link(self._temporary(temporary), target)
                    self._seal(target)
                if self._is_fresh:
                    fsync_directory(self._paths.objects)
                yield
        self._new.clear()

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            kernel.syncfs(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def objects_locked(paths: StatePaths, how: int) -> Iterator[None]:
    """Hold the lock of the objects in a with statement: shared to show them in a tree, exclusive to remove any."""
    descriptor = os.open(paths.objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
