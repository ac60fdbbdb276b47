"""Access: a repository with the credential that it is read with, and what is said when the registry refuses it.

What a volume brings counts first; where it brings nothing, what the node gives every pod. A credential of the node
that is refused is asked for once more, since it may have been changed, or have ended before its time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from csi_oras.errors import AccessDeniedError, CsiOrasError, RegistryUnavailableError, UnauthenticatedError
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.keychain import Found, Keychain
from csi_oras.registry.registries import Registries
from csi_oras.telemetry.logs import logger

_Result = TypeVar("_Result")


class Access:
    """Opens repositories."""

    def __init__(self, registries: Registries, keychain: Keychain) -> None:
        self._registries = registries
        self._keychain = keychain

    def client(self, repository: Repository, credential: Credential | None) -> RepositoryClient:
        """Return `repository` with this credential and no other."""
        return self._registries.repository(repository, credential)

    def at_once(self, repository: Repository, brought: Found) -> Found | None:
        """Return what `repository` is read with, if no plugin has to run to tell."""
        return brought if brought.credential else self._keychain.known_of_node(repository)

    def lenders(self, repository: Repository) -> str:
        """Return what stands in grants for the mirrors of `repository`.

        Where it cannot be told there are none: then only what the registry itself has shown counts.
        """
        try:
            return self._registries.lenders(repository.registry)
        except RegistryUnavailableError:
            return ""

    def use(self, repository: Repository, brought: Found, action: Callable[[RepositoryClient], _Result]) -> _Result:
        """Do `action` with `repository`; a plugin may have to run first.

        Raises:
            UnauthenticatedError, AccessDeniedError: it is refused; the message says where credentials were looked for.
        """
        found = brought if brought.credential else self._with_node(repository, brought)
        try:
            return action(self._opened(repository, found.credential))
        except (UnauthenticatedError, AccessDeniedError) as error:
            renewed = None
            if found.credential and not brought.credential:
                renewed = self._keychain.renewed(repository, found.credential)
            if renewed is None:
                raise _explained(error, found) from error
        try:
            return action(self._opened(repository, renewed))
        except (UnauthenticatedError, AccessDeniedError) as error:
            raise _explained(error, found) from error

    def _with_node(self, repository: Repository, brought: Found) -> Found:
        found = self._keychain.of_node(repository)
        return replace(found, tried=(*brought.tried, *found.tried))

    def _opened(self, repository: Repository, credential: Credential | None) -> RepositoryClient:
        source = credential.source if credential else "anonymous"
        logger.info("registry is asked", repository=str(repository), access=source)
        return self.client(repository, credential)


def _explained(error: CsiOrasError, found: Found) -> CsiOrasError:
    if not found.tried:
        return error
    return type(error)(error.subject, f"{error.cause} (no credential from: {'; '.join(found.tried)})", error.remedy)
