"""Blobs by digest, and the commit: the one place where anything is renamed into the store.

Commit order: written, size, digest, grant, mode, sync, rename, sync of the directory; fs-verity later, behind the pull.
The grant is there before anybody can see the blob, so that whoever asks next need not read all of it again to show that
he may. Small blobs are committed in groups: one thread takes all that wait, so that many share one journal commit and
one directory sync.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from csi_oras.errors import DigestMismatchError, SizeMismatchError, StoreBrokenError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.store.grants import Grant, Grants
from csi_oras.store.ingest import Ingest
from csi_oras.store.paths import StatePaths, fsync_directory, store_errors
from csi_oras.store.quarantine import Quarantine
from csi_oras.store.space import BLOCK

_LARGEST_GROUP = 256
_PIECE_BYTES = 1 << 20


class _Waiting(NamedTuple):
    ingest: Ingest
    digest: Digest
    grant: Grant
    done: Future[None]


class ContentStore:
    """Verified blobs; what it has is complete, true and never rewritten."""

    def __init__(self, paths: StatePaths, grants: Grants, seal: Callable[[str], None] = lambda _: None) -> None:
        """Keep blobs below `paths`; `seal` is told of the path of each that is committed, and does not wait."""
        self._paths = paths
        self._grants = grants
        self._seal = seal
        self._quarantine = Quarantine(paths)
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._committer = threading.Thread(target=self._commit_groups, name="commit", daemon=True)
        self._committer.start()

    def has(self, blob: Descriptor) -> bool:
        """Say whether the blob is there."""
        try:
            return os.stat(self._paths.blob(blob.digest)).st_size == blob.size
        except FileNotFoundError:
            return False

    def begun(self, blob: Descriptor, source: str = "") -> int:
        """Bytes that the unfinished blob from `source` has taken of the file system already, at most its size."""
        try:
            return min(os.stat(self._paths.ingest(blob.digest, source)).st_blocks * BLOCK, blob.size)
        except FileNotFoundError:
            return 0

    def path(self, digest: Digest) -> Path:
        """Where the blob is, if it is there."""
        return Path(self._paths.blob(digest))

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            StoreBrokenError: it is not there.
        """
        with store_errors(f"blob {digest}"):
            return self.path(digest).open("rb")

    def check(self, blob: Descriptor) -> None:
        """Let a blob pass that is what it was when it was committed, and take one away that is not.

        Raises:
            StoreBrokenError: it has rotted.
        """
        with self.open(blob.digest) as file:
            inode, hasher = os.fstat(file.fileno()).st_ino, blob.digest.hasher()
            while piece := file.read(_PIECE_BYTES):
                hasher.update(piece)
        if hasher.hexdigest() != blob.digest.encoded:
            self._quarantine.take("blob", blob.digest, self.path(blob.digest), inode)
            cause = "has rotted on this node's disk, and was taken out of the store"
            raise StoreBrokenError(f"blob {blob.digest}", cause, "it is fetched again with the next attempt")

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """Return a small blob's bytes, or None where it is not there, or is not what its name says."""
        try:
            content = self.path(digest).read_bytes() if self.path(digest).stat().st_size <= limit else b""
        except FileNotFoundError:
            return None
        hasher = digest.hasher()
        hasher.update(content)
        return content if hasher.hexdigest() == digest.encoded else None

    def ingest(self, blob: Descriptor, source: str = "", check: Callable[[], None] = lambda: None) -> Ingest | None:
        """Open the ingest of a blob from `source`, or return None where the blob is there by now.

        While another works on it, `check` may end the wait by what it raises.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """

        def is_there() -> bool:
            check()
            return self.has(blob)

        return Ingest.open(self._paths, blob, is_there, source)

    def put(self, blob: Descriptor, content: bytes) -> None:
        """Store a small blob that is at hand; one that is there counts as new for collection.

        Raises:
            DigestMismatchError: `content` is not what `blob` says.
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        if self._is_renewed(blob):
            return
        ingest = self.ingest(blob)
        if ingest is None:
            return
        try:
            ingest.write(memoryview(content), 0)
        except BaseException:
            ingest.remove()
            raise
        hasher = blob.digest.hasher()
        hasher.update(content)
        self.commit(ingest, Digest(blob.digest.algorithm, hasher.hexdigest()))

    def _is_renewed(self, blob: Descriptor) -> bool:
        path = self._paths.blob(blob.digest)
        with suppress(OSError):  # it is not there, or the commit will say what is wrong
            status = os.stat(path)
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # what pods see does not change
            return status.st_size == blob.size
        return False

    def commit(self, ingest: Ingest, digest: Digest, grant: Grant | None = None) -> None:
        """Make an ingest with this `digest` visible, durably, to whom `grant` names first; it is closed in any case.

        Raises:
            DigestMismatchError, SizeMismatchError: it is not the blob it should be; its bytes are gone.
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        self._check(ingest, digest)
        try:
            self._publish([ingest], [grant] if grant else [])
        finally:
            ingest.close()
        self._seal(self._paths.blob(ingest.blob.digest))

    def commit_in_group(self, ingest: Ingest, digest: Digest, grant: Grant) -> Future[None]:
        """Do what `commit` does together with others, soon; the future holds its outcome."""
        waiting = _Waiting(ingest, digest, grant, Future())
        self._waiting.put(waiting)
        return waiting.done

    def close(self) -> None:
        """Commit what waits, and stop."""
        self._waiting.put(None)
        self._committer.join()

    def _commit_groups(self) -> None:
        while group := self._next_group():
            accepted = []
            for waiting in group:
                try:
                    self._check(waiting.ingest, waiting.digest)
                    accepted.append(waiting)
                except BaseException as error:  # noqa: BLE001 (it is the caller's, who waits for it)
                    waiting.done.set_exception(error)
            outcome = self._outcome(accepted)
            for waiting in accepted:
                waiting.ingest.close()
                if outcome:
                    waiting.done.set_exception(outcome)
                else:
                    self._seal(self._paths.blob(waiting.ingest.blob.digest))
                    waiting.done.set_result(None)

    def _outcome(self, accepted: Sequence["_Waiting"]) -> BaseException | None:
        try:
            self._publish([waiting.ingest for waiting in accepted], [waiting.grant for waiting in accepted])
        except BaseException as error:  # noqa: BLE001 (the callers wait for it)
            return error
        return None

    def _next_group(self) -> list["_Waiting"]:
        group: list[_Waiting] = []
        while len(group) < _LARGEST_GROUP:
            try:
                item = self._waiting.get(block=not group)
            except queue.Empty:
                break
            if item is None:
                self._waiting.put(None)
                break
            group.append(item)
        return group

    def _check(self, ingest: Ingest, digest: Digest) -> None:
        blob, size = ingest.blob, os.fstat(ingest.descriptor).st_size
        if size == blob.size and digest == blob.digest:
            return
        ingest.remove()
        if size != blob.size:
            raise SizeMismatchError(f"blob {blob.digest}", f"has {size} bytes instead of {blob.size}", "report it")
        cause = f"the registry sent bytes with digest {digest}"
        raise DigestMismatchError(f"blob {blob.digest}", cause, "push it again, or report it")

    def _publish(self, ingests: Sequence[Ingest], grants: Sequence[Grant]) -> None:
        if grants:
            self._grants.add(grants)
        directories = set()
        with store_errors("commit"):
            for ingest in ingests:
                os.fchmod(ingest.descriptor, 0o444)
                os.utime(ingest.descriptor)  # while a pull runs, what is new is not collected
                if len(ingests) > 1:  # begin to write all of them out: then one journal commit covers all syncs below
                    os.posix_fadvise(ingest.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for ingest in ingests:
                os.fsync(ingest.descriptor)
            for ingest in ingests:
                target = self._paths.blob(ingest.blob.digest)
                if self.has(ingest.blob):  # another source was first, and what is there is never replaced
                    os.unlink(ingest.path)
                else:
                    if os.path.lexists(target):  # of another size: it has rotted, for trees that show it, too
                        self._quarantine.take("blob", ingest.blob.digest, Path(target))
                    os.rename(ingest.path, target)
                ingest.forget_extents()
                directories.add(os.path.dirname(target))
            for directory in directories:
                fsync_directory(directory)


def require(store: ContentStore, blob: Descriptor) -> Path:
    """Return the path of a blob that must be there.

    Raises:
        StoreBrokenError: it is not.
    """
    if not store.has(blob):
        raise StoreBrokenError(f"blob {blob.digest}", "is not in the store", "it is fetched again with the next volume")
    return store.path(blob.digest)
