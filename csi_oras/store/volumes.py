"""Volume records and leases: which volume is where, and what must not be collected for its sake."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from csi_oras.errors import NoSpaceError
from csi_oras.store.database import Database


class VolumeState(StrEnum):
    """How far a volume has come."""

    PUBLISHING = "publishing"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    """One volume at one target; `artifact` and `plan` are digests, empty until they are known.

    The `fingerprint` is that of what was asked for; it is empty for a mount that was found, until somebody asks.
    """

    volume_id: str
    target: str
    state: VolumeState
    fingerprint: str
    reference: str
    artifact: str = ""
    plan: str = ""
    size: int = 0
    files: int = 0
    pod: str = ""


_COLUMNS = "volume_id, target, state, fingerprint, reference, artifact, plan, bytes, files, pod"


class VolumeRecords:
    """The volumes of this node. A record that names a plan is the lease on it."""

    def __init__(self, database: Database, make_room: Callable[[], None] = lambda: None) -> None:
        """Take and give up leases in `database`; `make_room` is for when that is not possible on a full disk."""
        self._database = database
        self._make_room = make_room

    def get(self, volume_id: str, target: str) -> VolumeRecord | None:
        """Return the record of one volume at one target."""
        rows = self._database.query(
            f"SELECT {_COLUMNS} FROM volumes WHERE volume_id = ? AND target = ?",  # noqa: S608 (constant columns)
            volume_id, target,
        )  # fmt: skip
        return next(_records(rows), None)

    def others_at(self, volume_id: str, target: str) -> list[str]:
        """Return the ids of other volumes that are recorded at a target."""
        statement = "SELECT volume_id FROM volumes WHERE target = ? AND volume_id != ?"
        return [str(row[0]) for row in self._database.query(statement, target, volume_id)]

    def elsewhere(self, volume_id: str, target: str) -> list[str]:
        """Return the other targets at which a volume is recorded."""
        statement = "SELECT target FROM volumes WHERE volume_id = ? AND target != ?"
        return [str(row[0]) for row in self._database.query(statement, volume_id, target)]

    def put(self, record: VolumeRecord) -> None:
        """Write a record and the lease that goes with it.

        Raises:
            NoSpaceError: the disk is full, and nothing can be done about it.
        """
        try:
            self._put(record)
        except NoSpaceError:
            self._make_room()
            self._put(record)

    def _put(self, record: VolumeRecord) -> None:
        holder = _holder(record.volume_id, record.target)
        with self._database.transaction():
            self._database.query(
                "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                record.volume_id, record.target, record.state, record.fingerprint, record.reference, record.artifact,
                record.plan, record.size, record.files, record.pod, time.time(),
            )  # fmt: skip
            for held in filter(None, (record.artifact, record.plan)):
                self._database.query("INSERT OR IGNORE INTO leases VALUES (?, ?)", holder, held)
            if record.artifact:
                self._database.query(
                    "UPDATE artifacts SET last_used = ? WHERE digest = ?", time.time(), record.artifact
                )

    def drop(self, volume_id: str, target: str) -> None:
        """Forget a volume and give up its lease.

        Raises:
            NoSpaceError: the disk is full, and nothing can be done about it.
        """
        try:
            self._drop(volume_id, target)
        except NoSpaceError:
            self._make_room()
            self._drop(volume_id, target)

    def _drop(self, volume_id: str, target: str) -> None:
        with self._database.transaction():
            self._database.query("DELETE FROM volumes WHERE volume_id = ? AND target = ?", volume_id, target)
            self._database.query("DELETE FROM leases WHERE holder = ?", _holder(volume_id, target))

    def all(self) -> list[VolumeRecord]:
        """Return every record."""
        return list(_records(self._database.query(f"SELECT {_COLUMNS} FROM volumes")))  # noqa: S608

    def drop_intents(self, before: float) -> list[tuple[str, str]]:
        """Forget the publishes that were asked for last before a moment, in seconds of the epoch, and are not done.

        Returns their volume ids and targets.
        """
        statement = "DELETE FROM volumes WHERE state = ? AND since < ? RETURNING volume_id, target"
        rows = self._database.query(statement, VolumeState.PUBLISHING, before)
        return [(str(volume_id), str(target)) for volume_id, target in rows]

    def published(self) -> int:
        """Count the published volumes."""
        count: int = self._database.query("SELECT count(*) FROM volumes WHERE state = ?", VolumeState.PUBLISHED)[0][0]
        return count


def _holder(volume_id: str, target: str) -> str:
    return f"volume {volume_id} {target}"


def _records(rows: list[tuple[Any, ...]]) -> Iterator[VolumeRecord]:
    """Yield the records that can be read; any other counts as absent."""
    for volume_id, target, state, fingerprint, reference, artifact, plan, size, files, pod in rows:
        if state in tuple(VolumeState) and isinstance(size, int) and isinstance(files, int):
            yield VolumeRecord(
                volume_id=volume_id,
                target=target,
                state=VolumeState(state),
                fingerprint=fingerprint,
                reference=reference,
                artifact=artifact,
                plan=plan,
                size=size,
                files=files,
                pod=pod,
            )
