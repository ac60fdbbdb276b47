"""What was verified: that a key had signed a manifest, as found in a repository.

Known by the key and not by the rule that asked: when node policy changes, what was verified with a key that is
still trusted counts, and everything else has to be verified again.
"""

from collections.abc import Iterable

from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.store.database import Database


class SignatureRecords:
    """The signatures that were found good; keys go by their fingerprints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, repository: Repository, digests: Iterable[Digest], keys: Iterable[str]) -> bool:
        """Say whether one of `keys` is known to have signed one of `digests` in `repository`."""
        statement = "SELECT key FROM signatures WHERE repository = ? AND digest = ?"
        wanted = set(keys)
        return any(
            key in wanted
            for digest in digests
            for (key,) in self._database.query(statement, str(repository), str(digest))
        )

    def add(self, repository: Repository, digest: Digest, key: str) -> None:
        """Record that `key` has signed `digest`, as was just found in `repository`."""
        statement = "INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)"
        self._database.query(statement, str(repository), str(digest), key)
