"""Which repositories a node may pull from at all."""

from dataclasses import dataclass

from csi_oras.errors import AccessDeniedError
from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryRules:
    """Globs over registry/repository; deny wins, and an empty allow allows nothing."""

    allow: tuple[Glob, ...]
    deny: tuple[Glob, ...]

    def check(self, repository: Repository) -> None:
        """Let `repository` pass.

        Raises:
            AccessDeniedError: node policy forbids it.
        """
        name = str(repository)
        denied = any(glob.matches(name) for glob in self.deny)
        if denied or not any(glob.matches(name) for glob in self.allow):
            raise AccessDeniedError(
                name,
                "node policy does not allow this repository",
                "ask the cluster's administrator (registries.allow)",
            )
