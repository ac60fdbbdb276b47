"""Grants: which repository was readable with which credential, so that a cached artifact is no way around access.

A credential is known here by a keyed hash only; the empty one stands for anonymous, which opens to everybody.
What was read where mirrors were asked, too, counts as long as the same mirrors are.
"""

import os
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths, store_errors

ANONYMOUS = ""
_KEY_BYTES = 32


def holder(credential: str, mirrors: str) -> str:
    """Return what a grant is given to: a credential, and the mirrors by which it may have read."""
    return f"{credential}@{mirrors}" if mirrors else credential


class Grant(NamedTuple):
    """A repository in which a holder has read the blob with a digest."""

    repository: Repository
    digest: Digest
    holder: str


class Grants:
    """The records that (repository, digest) was readable with a credential."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def allow(self, repository: Repository, digest: Digest, credential: str) -> bool:
        """Say whether `credential`, or anybody, read `digest` in `repository`, by the same mirrors or by none."""
        alone, _, mirrors = credential.partition("@")
        holders = (credential, alone, ANONYMOUS, holder(ANONYMOUS, mirrors))
        statement = "SELECT 1 FROM grants WHERE repository = ? AND digest = ? AND credential IN (?, ?, ?, ?)"
        return bool(self._database.query(statement, str(repository), str(digest), *holders))

    def served_by(self, registry: str, digest: Digest) -> bool:
        """Say whether `digest` was read in any repository of a registry, without a mirror, by whomever."""
        statement = (
            "SELECT 1 FROM grants WHERE digest = ? AND substr(repository, 1, ?) = ? AND credential NOT LIKE '%@%'"
        )
        prefix = f"{registry}/"
        return bool(self._database.query(statement, str(digest), len(prefix), prefix))

    def add(self, grants: Sequence[Grant]) -> None:
        """Record what was read just now, together."""
        self._database.insert_many(
            "INSERT OR IGNORE INTO grants VALUES (?, ?, ?)",
            [(str(grant.repository), str(grant.digest), grant.holder) for grant in grants],
        )


def load_key(paths: StatePaths) -> bytes:
    """Return the key of this store for hashing credentials, made when it is first wanted.

    Raises:
        StoreBrokenError: it cannot be read or written.
    """
    with store_errors("grant key"):
        try:
            descriptor = os.open(paths.grant_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = paths.grant_key.read_bytes()
            if len(key) == _KEY_BYTES:
                return key
            paths.grant_key.unlink()  # torn by a crash: without its key no old grant counts
            return load_key(paths)
        with os.fdopen(descriptor, "wb") as file:
            key = secrets.token_bytes(_KEY_BYTES)
            file.write(key)
        return key
