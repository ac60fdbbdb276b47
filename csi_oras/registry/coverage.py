"""Coverage: which repositories a key of a docker config, or an image pattern of the kubelet, stands for.

Both are a host, in which `*` stands for one label or a part of one, and a path that covers what is below it. A key
never covers half a name: `ghcr.io/acme` covers `ghcr.io/acme/model` and not `ghcr.io/acme-labs/model`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, TypeVar

from csi_oras.oci.reference import Repository, canonical_host

_API_PATHS = frozenset({"v1", "v2"})
_HTTPS = ":443"

_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A host, perhaps with wildcards, and a path."""

    host: str
    path: str

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read a key as docker and the kubelet write them: host, host/path, or a URL of the v1 API."""
        host, _, path = (key.partition("://")[2] or key).partition("/")
        path = path.strip("/")
        # a wildcard is no host; what else is none covers nothing
        host = host.lower().removesuffix(_HTTPS) if "*" in host else canonical_host(host) or ""
        return cls(host, "" if path in _API_PATHS else path)

    def covers(self, repository: Repository) -> bool:
        """Say whether `repository` is one of those that this stands for."""
        if self.path and not f"{repository.name}/".startswith(f"{self.path}/"):
            return False
        if "*" not in self.host:
            return bool(self.host) and self.host == repository.registry
        wanted, given = self.host.split("."), repository.registry.split(".")
        return len(wanted) == len(given) and all(map(_label_matches, wanted, given))

    @property
    def rank(self) -> tuple[bool, int, int]:
        """How much it says: a host by its name more than a pattern, then the longer path, then the longer host."""
        return "*" not in self.host, len(self.path), len(self.host)


def closest(entries: Iterable[tuple[str, _Entry]], repository: Repository) -> _Entry | None:
    """Return the entry whose key covers `repository` and says most of it, if there is one."""
    covering = [(Pattern.parse(key), entry) for key, entry in entries]
    covering = [found for found in covering if found[0].covers(repository)]
    return max(covering, key=lambda found: found[0].rank)[1] if covering else None


def _label_matches(wanted: str, given: str) -> bool:
    # a port is no part of a label: *.example.com does not stand for another port
    return re.fullmatch(re.escape(wanted).replace(r"\*", "[^.:]*"), given) is not None
