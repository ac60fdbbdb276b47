"""One host of a registry: the registry itself, or a mirror that an administrator has named."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

from csi_oras.oci.reference import canonical_host
from csi_oras.registry.channel import Channel
from csi_oras.registry.hosts_file import ALL, Capability
from csi_oras.registry.origin import Origin
from csi_oras.telemetry.secrets import Secret


def lenders(hosts: Iterable["RegistryHost"]) -> str:
    """Return what stands in grants for those of `hosts` that lend access, or nothing where none does."""
    urls = sorted(host.url for host in hosts if host.lends_access)
    return hashlib.sha256("\n".join(urls).encode()).hexdigest()[:32] if urls else ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegistryHost:
    """Where requests for a registry go, and what goes with them to this very origin."""

    url: str
    """The root of the API, without a slash at its end."""
    origin: Origin
    registry: str
    capabilities: frozenset[Capability]
    headers: Mapping[str, Secret]
    channel: Channel | None

    @classmethod
    def make(
        cls,
        url: str,
        registry: str,
        *,
        capabilities: frozenset[Capability] = ALL,
        headers: Mapping[str, Secret] | None = None,
        channel: Channel | None = None,
    ) -> Self:
        """Return the host of `registry` at `url`."""
        return cls(
            url=url,
            origin=Origin.of(url),
            registry=registry,
            capabilities=capabilities,
            headers=headers or {},
            channel=channel,
        )

    @property
    def is_own(self) -> bool:
        """Whether this is the registry itself, which its credentials are for; all others are mirrors."""
        netloc = urlsplit(self.url).netloc
        return canonical_host(netloc) == self.registry

    @property
    def lends_access(self) -> bool:
        """Whether it answers everybody on this node alike, by the administrator's decision and not the registry's."""
        return not self.is_own or bool(self.headers)

    @property
    def name(self) -> str:
        """Return what this host is called in messages."""
        return "the registry" if self.is_own else f"the mirror {self.origin}"

    def can(self, *wanted: Capability) -> bool:
        """Say whether it may be asked for all that is `wanted`."""
        return self.capabilities.issuperset(wanted)

    def scope_name(self, repository: str) -> str:
        """Return what this host calls a repository: some serve a registry below a name of their own."""
        prefix = urlsplit(self.url).path.partition("/v2/")[2]
        return f"{prefix}/{repository}" if prefix else repository

    def at(self, path: str) -> str:
        """Return the URL of `path`; a mirror is told for which registry it is asked (`ns`)."""
        if self.is_own:
            return self.url + path
        joint = "&" if "?" in path else "?"
        return f"{self.url}{path}{joint}{urlencode({'ns': self.registry})}"
