"""Collection: the store gives back what nobody uses, when it has grown too large, and when a pull needs room.

One at a time, whichever process asks. What may go and in which order is the survey's to say, how much goes with it
the ledger's, and whether it still may the remover's.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from csi_oras.errors import NoSpaceError
from csi_oras.store.candidates import Decision, Kind, Survey
from csi_oras.store.database import Database
from csi_oras.store.leases import Leases
from csi_oras.store.links import Ledger
from csi_oras.store.paths import StatePaths, store_errors
from csi_oras.store.removal import Remover
from csi_oras.store.reserve import Reserve
from csi_oras.store.space import Space, SpaceMeter
from csi_oras.store.views import Views
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics
from csi_oras.telemetry.progress import human_size

EVERYTHING = float("inf")
_STALE_SECONDS = 24 * 3600.0
"""After which an unfinished blob goes, need or not, if nobody has worked on it."""
_RECORD_BYTES, _RECORD_FILES = 64 << 10, 8
"""What a few records take at most, with the pages and the files that SQLite writes for them."""
_RESERVING_BYTES = 32 << 20
"""What must be left for a reserve to be taken of it."""
_ROUNDS = 8
"""Attempts to reach what is wanted: somebody may use, or still read, what was to go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a collection took, and what it left and why; sizes in bytes on disk."""

    removed: list[Decision] = field(default_factory=list)
    kept: list[Decision] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes that went."""
        return sum(decision.size for decision in self.removed)


class Collector:
    """Gives back what nobody uses."""

    def __init__(
        self,
        paths: StatePaths,
        database: Database,
        *,
        leases: Leases,
        space: SpaceMeter,
        mounted: Callable[[], frozenset[str]],
        views: Views,
        metrics: Metrics,
    ) -> None:
        """`mounted` returns the digests of plans that a mount shows, recorded or not."""
        self._paths = paths
        self._database = database
        self._leases = leases
        self._space = space
        self._mounted = mounted
        self._views = views
        self._metrics = metrics
        self._reserve = Reserve(paths)
        self._remover = Remover(paths, database, leases, mounted)

    def make_room_for_records(self) -> None:
        """Do what can be done on a full disk for what is small and must be written.

        Raises:
            StoreBrokenError: the store fails.
        """
        self._reserve.release()
        self._database.reserve()  # before others take what was released
        self.make_room(_RECORD_BYTES, _RECORD_FILES)

    def measure(self) -> Space:
        """Return the space that there is, as it is.

        Raises:
            StoreBrokenError: the store fails.
        """
        return self._space.measure()

    def make_room(self, size: int, files: int = 0) -> Space:
        """Return the space that there is, after giving back as much as is needed for `size` bytes and `files` more.

        Raises:
            StoreBrokenError: the store fails.
        """
        space = self._space.measure()
        if space.available >= size and space.files >= files:
            return space
        with self._alone():
            self._leases.sweep()
            for _ in range(_ROUNDS):
                space = self._space.measure()
                wanted = max(size - space.available, self._some() if space.files < files else 0)
                if wanted <= 0 or not self._collected("need", wanted, packed=True).removed:
                    break
        return self._space.measure()

    def make_some_room(self, size: int, part: float) -> bool:
        """Give back what `size` bytes lack, or a part of the store, for who has found the disk full, or out of inodes.

        Returns whether anything was given back.

        Raises:
            StoreBrokenError: the store fails.
        """
        with self._alone():
            self._leases.sweep()
            wanted = max(size - self._space.measure().available, self._some(part))
            return bool(self._collected("need", wanted, packed=True).removed)

    def tidy(self) -> None:
        """Do what is due: go down to the low watermark from above the high one, and drop what is stale.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        with self._alone():
            self._leases.sweep()
            self._remover.sweep()
            self._remove_stale()
            space = self._space.measure()
            if space.available > _RESERVING_BYTES:
                self._reserve.fill()
                self._database.reserve()
            if not space.is_high:
                return
            for _ in range(_ROUNDS):
                wanted = max(space.excess, self._some() if space.has_many_files else 0)
                if not wanted or not self._collected("watermark", wanted, packed=True).removed:
                    break
                space = self._space.measure()
            if space.is_high:
                used = f"{human_size(space.used)} of {human_size(space.capacity)}"
                logger.warning("the store is above its high watermark, and the rest of it is in use", used=used)

    def _some(self, part: float = 1 / _ROUNDS) -> int:
        """Return the bytes of a part of the store, for where files are lacking, which nobody counts by artifact."""
        return int(self._space.usage().total * part) + 1

    def collect(self, *, everything: bool = False, dry_run: bool = False) -> Collection:
        """Go down to the low watermark, or give back `everything` that nobody uses; a dry run only says what it would.

        Raises:
            NoSpaceError, StoreBrokenError: the store fails.
        """
        with self._alone():
            wanted = EVERYTHING if everything else self._space.measure().excess
            if dry_run:
                return self._decided(wanted, packed=not everything)
            self._leases.sweep()
            return self._collected("command", wanted, packed=not everything)

    def _decided(self, wanted: float, *, packed: bool) -> Collection:
        held, mounted, limits = self._leases.held(), self._mounted(), self._space.limits()
        with store_errors("collection"):
            survey = Survey(
                self._paths, self._database, held=held, mounted=mounted, used_before=time.time() - limits.min_age
            )
            ledger = Ledger(self._paths, self._database, held)
            going, unneeded = [], []
            for candidate in survey.candidates(packed=packed):
                if wanted > 0:
                    decision = replace(candidate, size=ledger.take(candidate))
                    wanted -= decision.size
                    going.append(decision)
                else:
                    unneeded.append(replace(candidate, reason="there is room enough"))
        return Collection(removed=going, kept=survey.kept + unneeded)

    def _collected(self, trigger: str, wanted: float, *, packed: bool) -> Collection:
        decided, started = self._decided(wanted, packed=packed), time.monotonic()
        removed = self._removed(decided.removed)
        gone = {(decision.kind, decision.digest, decision.name) for decision in removed}
        used = [
            replace(decision, size=0, reason="came into use meanwhile")
            for decision in decided.removed
            if (decision.kind, decision.digest, decision.name) not in gone
        ]
        collection = Collection(removed=removed, kept=decided.kept + used)
        self._metrics.observe_collection(trigger, collection.freed, _artifacts(removed))
        if removed:
            self._views.follow_all()
            logger.info(
                "collected",
                trigger=trigger,
                freed_bytes=collection.freed,
                artifacts=_artifacts(removed),
                others=len(removed) - _artifacts(removed),
                seconds=round(time.monotonic() - started, 3),
            )
        return collection

    def _removed(self, decisions: list[Decision]) -> list[Decision]:
        try:
            return self._remover.remove(decisions)
        except NoSpaceError:  # files went before their records could: now there is room for these
            return self._remover.remove(decisions)

    def _remove_stale(self) -> None:
        before = time.time() - _STALE_SECONDS
        survey = Survey(self._paths, self._database, held=self._leases.held(), mounted=(), used_before=before)
        with store_errors("collection"):
            stale = list(survey.unfinished())
        if stale:
            self._removed(stale)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with store_errors("collection"):
            descriptor = os.open(self._paths.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _artifacts(decisions: list[Decision]) -> int:
    return sum(decision.kind is Kind.ARTIFACT for decision in decisions)
