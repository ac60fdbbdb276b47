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
        key = "deny" if any(glob.matches(name) for glob in self.deny) else "allow"
        if key == "deny" or not any(glob.matches(name) for glob in self.allow):
            cause = "node policy does not allow this repository"
            raise AccessDeniedError(name, cause, f"ask the cluster's administrator (registries.{key})")
