"""The keychain: where a credential for a repository comes from, the first source that covers it being the one used.

In this order: the volume's secret, the pod's service-account token, the node's credential providers, the node's
docker config files, none. There is no way back: a credential that is refused is an error and no reason to try the
next source. What was looked for is kept for the error, never what was found there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from csi_oras.oci.reference import Repository
from csi_oras.registry import credentials, service_accounts
from csi_oras.registry.credentials import Credential
from csi_oras.registry.docker_files import DockerFiles
from csi_oras.registry.providers import Providers, ProviderSettings, UnknownYetError
from csi_oras.registry.service_accounts import ServiceAccountRule
from csi_oras.telemetry.secrets import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What node policy names as sources."""

    service_accounts: tuple[ServiceAccountRule, ...] = ()
    providers: ProviderSettings = field(default_factory=ProviderSettings)
    docker_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A credential, or none, and for people the sources in which nothing was found."""

    credential: Credential | None = None
    tried: tuple[str, ...] = ()


class _Trail:
    """Why each source had nothing."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def of(self, source: str) -> Callable[[str], None]:
        return lambda why: self.tried.append(f"{source}: {why}")

    def found(self, credential: Credential | None) -> Found:
        return Found(credential=credential, tried=tuple(self.tried))


class Keychain:
    """The sources of a node."""

    def __init__(self, sources: Callable[[], Sources], providers: Providers | None = None) -> None:
        """Look into what `sources` names at each look-up."""
        self._sources = sources
        self._providers = providers or Providers()
        self._files = DockerFiles()

    def of_volume(self, secret: Mapping[str, Secret], tokens: Secret | None, repository: Repository) -> Found:
        """Return what a volume itself brings: its secret, or its pod's tokens.

        Raises:
            UnauthenticatedError: the secret is no secret for a registry.
        """
        trail = _Trail()
        credential = credentials.from_secret(secret, repository)
        if credential is None:
            trail.of("volume's secret")("nothing for it" if secret else "none")
            rules = self._sources().service_accounts
            credential = service_accounts.find(rules, tokens, repository, trail.of("service-account token"))
        return trail.found(credential)

    def of_node(self, repository: Repository) -> Found:
        """Return what the node gives every pod; this may run a plugin, for up to a minute."""
        trail = _Trail()
        return trail.found(self._of_node(repository, trail, may_run=True))

    def known_of_node(self, repository: Repository) -> Found | None:
        """Return what the node gives every pod if that is known at once, else None."""
        trail = _Trail()
        try:
            return trail.found(self._of_node(repository, trail, may_run=False))
        except UnknownYetError:
            return None

    def renewed(self, repository: Repository, refused: Credential) -> Credential | None:
        """Return what the node gives instead of a credential that was refused, or None where it knows no other."""
        self._providers.forget(refused)
        credential = self.of_node(repository).credential
        return None if credential is None or credential.opens_as(refused) else credential

    def _of_node(self, repository: Repository, trail: _Trail, *, may_run: bool) -> Credential | None:
        sources = self._sources()
        note = trail.of("credential providers")
        found = self._providers.find(sources.providers, repository, note, may_run=may_run)
        if found:
            return found
        note = trail.of("node's docker configs")
        if not sources.docker_files:
            note("not configured")
        return self._files.find(sources.docker_files, repository, note)
