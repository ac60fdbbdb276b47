"""Plans: what a volume will show, decided before a byte is fetched.

A plan is a value: the artifact package makes it, the transfer fetches what it names, the store lays it out.
Its digest is the key of the tree, so whatever changes what a pod sees must change the digest.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name

_LAYOUT_VERSION = 1
"""Raised whenever the same plan would be laid out differently on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One file: its name, the blob that holds its bytes, its layer's place in the manifest, the naming rule."""

    name: Name
    blob: Descriptor
    layer: int
    rule: str
    mode: int = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A layer that the volume does not show, and why."""

    layer: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files of a volume in the order of their names; `single` where the volume is one file itself."""

    entries: tuple[PlanEntry, ...]
    left: tuple[LeftOut, ...] = ()
    single: bool = False

    @cached_property
    def digest(self) -> Digest:
        """The digest of all that a pod can see."""
        seen = [[str(entry.name), str(entry.blob.digest), entry.blob.size, entry.mode] for entry in self.entries]
        canonical = json.dumps([_LAYOUT_VERSION, self.single, seen], separators=(",", ":"))
        return Digest("sha256", hashlib.sha256(canonical.encode()).hexdigest())

    @cached_property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.blob.size for entry in self.entries)

    @cached_property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Each blob once, in the order of the layers."""
        by_layer = sorted(self.entries, key=lambda entry: entry.layer)
        return tuple({entry.blob.digest: entry.blob for entry in by_layer}.values())
