"""Askers: who wants blobs, of which repository and with which credential."""

from collections.abc import Callable
from dataclasses import dataclass

from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.grants import Grant
from csi_oras.transfer.demand import Demand


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Asker:
    """A pull that wants blobs of a repository as one credential sees it, known to grants as `holder`.

    Turns and bytes are dealt between askers; each equals only itself.
    """

    client: RepositoryClient
    holder: str
    demand: Callable[[], Demand] = lambda: Demand.FOREGROUND
    """How much the pull is wanted now; one that is not at all never is again."""

    @property
    def repository(self) -> Repository:
        """Return where it asks."""
        return self.client.repository

    def grant(self, digest: Digest) -> Grant:
        """Return the record that it has read this."""
        return Grant(self.repository, digest, self.holder)

    def is_background(self) -> bool:
        """Say whether everything else comes first."""
        return self.demand() is Demand.BACKGROUND
