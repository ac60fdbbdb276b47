"""What became of the wishes of node policy: one record for each reference that a wish means.

What a wish keeps from collection is no matter of these records, but of leases.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from csi_oras.oci.digest import Digest
from csi_oras.store.database import Database


class WishState(StrEnum):
    """How far a reference is."""

    WAITING = "waiting"
    PULLING = "pulling"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WishRecord:
    """A reference that a wish means, or the wish itself where there is something to say of all of it.

    `digest` is the artifact that is kept for it, whatever it means by now; `updated` when it was last looked after, in
    seconds of the epoch, 0 for never; `error` why it failed, or what is left out.
    """

    wish: str
    reference: str
    state: WishState = WishState.WAITING
    digest: Digest | None = None
    updated: float = 0.0
    error: str = ""


class WishRecords:
    """The records of all wishes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[WishRecord]:
        """Return every record, by wish and reference."""
        rows = self._database.query(
            "SELECT wish, reference, state, digest, updated, error FROM wishes ORDER BY wish, reference"
        )
        return [
            WishRecord(
                wish=wish,
                reference=reference,
                state=WishState(state),
                digest=Digest.parse(digest) if digest else None,
                updated=updated,
                error=error,
            )
            for wish, reference, state, digest, updated, error in rows
        ]

    def of(self, wish: str) -> dict[str, WishRecord]:
        """Return the records of one wish by reference."""
        return {record.reference: record for record in self.all() if record.wish == wish}

    def put(self, record: WishRecord) -> None:
        """Remember a record in place of the one before.

        Raises:
            NoSpaceError: the disk is full.
            StoreBrokenError: the store fails.
        """
        self._database.query(
            "INSERT OR REPLACE INTO wishes (wish, reference, state, digest, updated, error) VALUES (?, ?, ?, ?, ?, ?)",
            record.wish, record.reference, str(record.state), str(record.digest or ""), record.updated, record.error,
        )  # fmt: skip

    def drop(self, record: WishRecord) -> None:
        """Forget a record."""
        self._database.query("DELETE FROM wishes WHERE wish = ? AND reference = ?", record.wish, record.reference)

    def count(self) -> Counter[WishState]:
        """Count the records by state."""
        rows = self._database.query("SELECT state, count(*) FROM wishes GROUP BY state")
        return Counter({WishState(state): count for state, count in rows})
