"""Removal: what a collection has decided is carried out, and decided once more where somebody may have come between.

Whoever wants something takes a lease and then looks whether it is there; whoever removes something looks for leases
and moves it away in one transaction, which no lease can come between. A crash leaves rows that name nothing, which
counts as absent, and what was moved away, which the next collection removes. Unpacked files have no leases: who adds
one to a tree holds the lock of the objects, and a link of his own.
"""

import fcntl
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

from csi_oras.oci.digest import Digest
from csi_oras.store.candidates import Decision, Kind, is_of_the_store
from csi_oras.store.database import Database
from csi_oras.store.leases import Held, Leases
from csi_oras.store.objects import objects_locked
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.staging import empty

_GROUP = 16
"""Decisions that share a transaction; publishes wait for it to end."""
_BLOBS = 256
"""Blobs that share one."""


class Remover:
    """Carries out decisions."""

    def __init__(
        self, paths: StatePaths, database: Database, leases: Leases, mounted: Callable[[], frozenset[str]]
    ) -> None:
        self._paths = paths
        self._database = database
        self._leases = leases
        self._mounted = mounted

    def remove(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Remove what nobody has begun to use since it was decided, and return what that was.

        Raises:
            NoSpaceError: the disk is so full that not even records can be changed; try again, there is room now.
            StoreBrokenError: the store fails.
        """
        removed: list[Decision] = []
        waiting = iter(decisions)
        self.sweep()
        with store_errors("collection"):
            while group := list(islice(waiting, _GROUP)):
                removed += self._group(self._paths.removed).remove(group)
            self._remove_objects()
        return removed

    def sweep(self) -> None:
        """Remove what was moved away by a collection that did not end.

        Raises:
            StoreBrokenError: the store fails.
        """
        with store_errors("collection"):
            empty(self._paths.removed)

    def _group(self, directory: Path) -> "_Group":
        return _Group(self._paths, self._database, self._leases, self._mounted(), directory)

    def _remove_objects(self) -> None:
        """Remove the unpacked files that no tree shows any more."""
        with objects_locked(self._paths, fcntl.LOCK_EX):
            for entry in os.scandir(self._paths.objects):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 and is_of_the_store(entry.name, status):
                    os.unlink(entry.path)  # noqa: PTH108 (os.scandir gives text, here and below)


class _Group:
    """Decisions that are carried out together."""

    def __init__(
        self, paths: StatePaths, database: Database, leases: Leases, mounted: frozenset[str], directory: Path
    ) -> None:
        self._paths = paths
        self._database = database
        self._query = database.query
        self._leases = leases
        self._mounted = mounted
        self._directory = directory
        self._numbers = count()

    def remove(self, decisions: Sequence[Decision]) -> list[Decision]:
        removed, blobs = [], []
        try:
            with self._database.transaction():
                held = self._leases.held()
                for decision in decisions:
                    if decision.kind is Kind.ARTIFACT:
                        contents = self._remove_artifact(decision, held)
                        removed += [] if contents is None else [decision]
                        blobs += contents or []
                    elif decision.kind is Kind.TREE and not self._is_shown(held, decision.digest):
                        self._remove_tree(decision.digest)
                        removed.append(decision)
        finally:
            empty(self._directory)  # also when the records cannot be changed: this is what makes room
        unowned = [decision for decision in decisions if decision.kind in (Kind.BLOB, Kind.PACKED)]
        packed = {decision.digest for decision in unowned if decision.kind is Kind.PACKED}
        waiting = iter({*blobs, *(decision.digest for decision in unowned)})
        gone = set()
        while some := list(islice(waiting, _BLOBS)):
            gone |= self._remove_blobs(some, packed)
        removed += [decision for decision in unowned if decision.digest in gone]
        removed += [
            decision for decision in decisions if decision.kind is Kind.INGEST and self._remove_ingest(decision)
        ]
        return removed + [decision for decision in decisions if decision.kind is Kind.OBJECT]

    def _remove_artifact(self, decision: Decision, held: Held) -> list[str] | None:
        """Remove an artifact's records and trees, and return what it was made of; None if somebody uses it by now."""
        artifact, query = decision.digest, self._query
        plans = [plan for (plan,) in query("SELECT DISTINCT plan FROM plans WHERE artifact = ?", artifact)]
        used = query("SELECT 1 FROM artifacts WHERE digest = ? AND last_used <= ?", artifact, decision.last_used)
        if not used or self._is_shown(held, artifact, *plans):
            return None
        roots = [root for (root,) in query("SELECT DISTINCT root FROM plans WHERE artifact = ?", artifact)]
        blobs = [blob for (blob,) in query("SELECT digest FROM contents WHERE artifact = ?", artifact)]
        for table in ("plans", "contents"):
            query(f"DELETE FROM {table} WHERE artifact = ?", artifact)  # noqa: S608 (constant names)
        query("DELETE FROM artifacts WHERE digest = ?", artifact)
        for root in roots:
            query("DELETE FROM tags WHERE root = ? AND NOT EXISTS (SELECT 1 FROM plans WHERE root = ?)", root, root)
        for plan in plans:
            if not query("SELECT 1 FROM plans WHERE plan = ? LIMIT 1", plan):
                self._forget_access(plan)
                self._remove_tree(plan)
        return blobs

    def _is_shown(self, held: Held, *digests: str) -> bool:
        return bool(held.reason(*digests)) or not self._mounted.isdisjoint(digests)

    def _forget_access(self, digest: str) -> None:
        self._query("DELETE FROM grants WHERE digest = ?", digest)
        self._query("DELETE FROM signatures WHERE digest = ?", digest)

    def _remove_tree(self, plan: str) -> None:
        tree = self._paths.tree(Digest.parse(plan))
        with suppress(FileNotFoundError):
            tree.rename(self._aside())

    def _remove_blobs(self, digests: Sequence[str], packed: set[str]) -> set[str]:
        """Remove blobs that nobody owns or counts on, `packed` ones though they are owned, and return which."""
        gone = set()
        try:
            with self._database.transaction():
                held = self._leases.held()
                for digest in digests:
                    is_owned = self._query("SELECT 1 FROM contents WHERE digest = ? LIMIT 1", digest)
                    if held.reason(digest) or (is_owned and digest not in packed):
                        continue
                    if self._is_removed(digest, held):
                        gone.add(digest)
                        self._forget_access(digest)
        finally:
            empty(self._directory)
        return gone

    def _is_removed(self, digest: str, held: Held) -> bool:
        """Move a blob away unless a tree shows it or a pull under way has written it, as its status says after that."""
        path, aside = self._paths.blob(Digest.parse(digest)), self._aside()
        try:
            os.rename(path, aside)  # noqa: PTH104
        except FileNotFoundError:
            return True
        status = os.lstat(aside)
        if status.st_nlink == 1 and max(status.st_atime, status.st_mtime) < held.oldest_pull:
            return True
        with suppress(FileExistsError):  # it was fetched anew meanwhile
            os.link(aside, path)
        return False

    def _remove_ingest(self, decision: Decision) -> bool:
        """Remove an unfinished blob, unless somebody works on it."""
        path = str(self._paths.ingests / decision.name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                for name in (f"{path}.extents", path):
                    with suppress(FileNotFoundError):
                        os.unlink(name)  # noqa: PTH108
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _aside(self) -> str:
        return f"{self._directory}/{next(self._numbers)}"
