"""What is wanted of a registry and what came of it: the values that pulls go by."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from csi_oras.artifact.kind import Artifact, Kind
from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Plan
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.registry.credentials import Credential
from csi_oras.registry.keychain import Found


class PullPolicy(StrEnum):
    """When the registry is asked, as for container images."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What is wanted, by whom: with `credential`, or without one (see `tried`) as the node has it for all.

    In the `background`, it comes after everything that is not.
    """

    reference: Reference
    platform: Platform
    selection: Selection
    policy: PullPolicy
    credential: Credential | None
    tried: tuple[str, ...] = ()
    background: bool = False
    lazy: bool = False
    """Whether it is enough if its bytes come when they are read."""

    @property
    def key(self) -> Hashable:
        """Requests of one key are one job."""
        return (self.reference, self.platform, self.selection.key, self.policy, self.brought, self.lazy)

    @property
    def brought(self) -> Found:
        """What the volume itself brings to be let in."""
        return Found(credential=self.credential, tried=self.tried)

    def view_key(self, *, goes_by_reference: bool) -> tuple[Platform, str]:
        """What decides, beside the root, what a volume shows: for some, its files are named for the reference."""
        named = f" {self.reference.repository}:{self.reference.tag or ''}" if goes_by_reference else ""
        return self.platform, f"{self.selection.key}{named}"


@dataclass(frozen=True, kw_only=True)
class LazyArtifact:
    """What a lazy tree is made of: a pinned reference, the artifact's manifest, who it is for, and what proves chunks.

    `holder` is what grants know the credential by; `index` is to be believed.
    """

    reference: Reference
    artifact: Digest
    plan: Plan
    holder: str
    index: ChunkIndex | None = None

    @property
    def tree(self) -> str:
        """The name of the tree: 64 hexadecimal digits; no text from outside is in it."""
        parts = (self.plan.digest, self.reference.repository, self.holder)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledArtifact:
    """An artifact that is complete in the store, unless it is lazy; `path` is the tree, or only file, that shows it.

    Sizes are in bytes; `pull_seconds` is None for what was here already; `warnings` say what node policy would rather
    have otherwise.
    """

    reference: Reference
    artifact: Digest
    plan: Digest
    size: int
    files: int
    path: Path
    fetched: int = 0
    pull_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    lazy: LazyArtifact | None = None
    """What is read before it is complete, where it is not."""

    @property
    def verifiable(self) -> tuple[Digest, ...]:
        """The digests of which one must be signed where node policy wants it: the root's and the manifest's."""
        return (self.reference.digest, self.artifact) if self.reference.digest else (self.artifact,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An artifact, its kind, and what a volume of it would show."""

    artifact: Artifact
    kind: Kind
    plan: Plan
