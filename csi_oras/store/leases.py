"""Leases: what must stay, and for whose sake.

A volume holds its artifact and its tree as long as its record is there; a wish of node policy holds what it has
brought. A pull holds what it counts on, and everything that is written while it runs, until it ends, however it ends:
a lock on its staging shows that its process lives.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from csi_oras.errors import NoSpaceError
from csi_oras.oci.digest import Digest
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.staging import staging, sweep
from csi_oras.telemetry.logs import logger

_PULL = "pull"
_WISH = "prefetch"
_OUTBOX = "outbox"
_LAZY = "lazy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held: the holders of each digest, and when the oldest pull under way began."""

    holders: dict[str, set[str]] = field(default_factory=dict)
    oldest_pull: float = float("inf")

    def reason(self, *digests: str) -> str:
        """Say who holds one of `digests`, in words for people; nothing if nobody does."""
        holders = {holder for digest in digests for holder in self.holders.get(digest, ())}
        kinds = [holder.partition(" ")[0] for holder in holders]
        volumes = kinds.count("volume")
        if volumes:
            return "shown by 1 volume" if volumes == 1 else f"shown by {volumes} volumes"
        if _PULL in kinds:
            return "a pull is under way"
        if _LAZY in kinds:
            return "read by a lazy volume"
        if _OUTBOX in kinds:
            return "the base of what waits in the outbox"
        return "on the prefetch list" if _WISH in kinds else f"held by {kinds[0]}" if kinds else ""


class PullLease:
    """What one pull counts on."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    def add(self, digests: Iterable[Digest]) -> None:
        """Keep these, too: look whether they are there afterwards, and they stay.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        rows = [(self._holder, str(digest)) for digest in digests]
        if rows:
            self._database.insert_many("INSERT OR IGNORE INTO leases VALUES (?, ?)", rows)


class Leases:
    """The leases of this store."""

    def __init__(self, paths: StatePaths, database: Database) -> None:
        self._paths = paths
        self._database = database

    @contextmanager
    def of_pull(self) -> Iterator[PullLease]:
        """Hold what a pull adds, and all that is written meanwhile, in a with statement.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        with store_errors("lease"), staging(self._paths) as directory:
            holder = f"{_PULL} {directory.name}"
            self._database.query("INSERT INTO holders VALUES (?, ?)", holder, time.time())
            try:
                yield PullLease(self._database, holder)
            finally:
                self._drop(holder)

    def of_wish(self, wish: str, digests: Iterable[Digest]) -> None:
        """Hold for a wish of node policy exactly `digests` from now on; none lets go of all.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        self._hold(f"{_WISH} {wish}", digests)

    def of_outbox(self, entry: str, digests: Iterable[Digest]) -> None:
        """Hold for an entry of the outbox exactly `digests` from now on; none lets go of all.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        self._hold(f"{_OUTBOX} {entry}", digests)

    def of_lazy(self, tree: str, digests: Iterable[Digest]) -> None:
        """Hold for a lazy tree exactly `digests` from now on; none lets go of all.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        self._hold(f"{_LAZY} {tree}", digests)

    def of_lazy_only(self, trees: Iterable[str]) -> None:
        """Let go of what is held for lazy trees that are none of `trees`.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        kept = {f"{_LAZY} {tree}" for tree in trees}
        for (holder,) in self._database.query("SELECT DISTINCT holder FROM leases WHERE holder LIKE ?", f"{_LAZY} %"):
            if holder not in kept:
                self._hold(holder, [])

    def _hold(self, holder: str, digests: Iterable[Digest]) -> None:
        with self._database.transaction():
            self._database.query("DELETE FROM leases WHERE holder = ?", holder)
            for digest in digests:
                self._database.query("INSERT OR IGNORE INTO leases VALUES (?, ?)", holder, str(digest))

    def held(self) -> Held:
        """Return what is held now; pulls whose process is gone hold nothing.

        Inside of a transaction, nothing can be held anew until its end.
        """
        living = {f"{_PULL} {name}" for name in os.listdir(self._paths.staging)}  # noqa: PTH208
        holders: dict[str, set[str]] = {}
        for holder, digest in self._database.query("SELECT holder, digest FROM leases"):
            if holder in living or not holder.startswith(f"{_PULL} "):
                holders.setdefault(digest, set()).add(holder)
        pulls = self._database.query("SELECT holder, since FROM holders")
        began = [since for holder, since in pulls if holder in living]
        return Held(holders=holders, oldest_pull=min(began, default=float("inf")))

    def sweep(self) -> None:
        """Drop what dead pulls have left behind, their leases and their staging."""
        with store_errors("staging"):
            sweep(self._paths)
            living = {f"{_PULL} {name}" for name in os.listdir(self._paths.staging)}  # noqa: PTH208
        for (holder,) in self._database.query("SELECT holder FROM holders"):
            if holder not in living:
                self._drop(holder)

    def _drop(self, holder: str) -> None:
        try:
            with self._database.transaction():
                self._database.query("DELETE FROM leases WHERE holder = ?", holder)
                self._database.query("DELETE FROM holders WHERE holder = ?", holder)
        except NoSpaceError as error:  # void without its staging, and dropped by a later sweep
            logger.warning("a lease that has ended is still recorded", cause=error.message)
