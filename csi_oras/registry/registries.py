"""Registries: every registry there is, each reached by the hosts that the node names for it."""

from collections.abc import Callable

from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.registry.host import RegistryHost, lenders
from csi_oras.registry.hosts_dirs import HostsDirectories
from csi_oras.registry.rota import Rota
from csi_oras.registry.session import Session
from csi_oras.registry.tokens import Tokens
from csi_oras.registry.transport import Transport


class Registries:
    """Every registry there is, behind one transport, one store of tokens and the node's hosts directories."""

    def __init__(
        self,
        transport: Transport,
        directories: HostsDirectories | None = None,
        mirror_credential: Callable[[RegistryHost], Credential | None] = lambda _mirror: None,
    ) -> None:
        """Reach each registry as `directories` say; `mirror_credential` is what is kept for a mirror by its own name.

        A credential for a registry is never shown to its mirrors.
        """
        self._transport = transport
        self._tokens = Tokens(transport)
        self._directories = directories or HostsDirectories()
        self._mirror_credential = mirror_credential
        self._rota = Rota()

    def hosts(self, registry: str) -> tuple[RegistryHost, ...]:
        """Return the hosts that serve `registry`, in the order in which they are asked.

        Raises:
            RegistryUnavailableError: what the node says about it cannot be read.
        """
        return self._directories.hosts_of(registry)

    def lenders(self, registry: str) -> str:
        """Return what stands in grants for the mirrors that `registry` has now.

        Raises:
            RegistryUnavailableError: what the node says about it cannot be read.
        """
        return lenders(self.hosts(registry))

    def repository(self, repository: Repository, credential: Credential | None) -> RepositoryClient:
        """Return a repository as `credential` sees it.

        Raises:
            RegistryUnavailableError: what the node says about its registry cannot be read.
        """
        sessions = [self._session(host, repository, credential) for host in self.hosts(repository.registry)]
        return RepositoryClient(repository, credential, sessions, self._rota)

    def at(self, host: RegistryHost, repository: Repository, credential: Credential | None) -> RepositoryClient:
        """Return a repository as `credential` sees it at one of its hosts, which is asked once, without the others."""
        session = self._session(host, repository, credential)
        return RepositoryClient(repository, credential, [session], Rota(), attempts=1)

    def _session(self, host: RegistryHost, repository: Repository, credential: Credential | None) -> Session:
        shown = credential if host.is_own else self._mirror_credential(host)
        return Session(self._transport, self._tokens, repository, host, shown)
