"""Plans: what a volume will show, decided before a byte is fetched.

A plan is a value: the artifact package makes it, the transfer fetches what it names, the store lays it out.
Its digest is the key of the tree, so whatever changes what a pod sees must change the digest.
"""

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.selection import Selection

_LAYOUT_VERSION = 2
"""Raised whenever the same plan would be laid out differently on disk."""


class Compression(StrEnum):
    """How the bytes of an archive are compressed, as its media type says."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One file: its name, the blob that holds its bytes, its layer's place in the manifest, the naming rule.

    `layer` is None for what is no layer: the config, the manifest. `is_local` says that nobody has to fetch the
    blob: whoever made the plan has put it into the store.
    """

    name: Name
    blob: Descriptor
    layer: int | None
    rule: str
    mode: int = 0o444
    is_local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArchive:
    """One tar whose members become files; what they are called is known when it is unpacked.

    `directory` is where the members' names begin (None: the root), `prefix` what each of them must begin with,
    `content` the digest that the tar must have once it is uncompressed.
    """

    blob: Descriptor
    layer: int
    rule: str
    compression: Compression
    directory: Name | None = None
    prefix: Name | None = None
    content: Digest | None = None
    is_image_layer: bool = False
    """Whether it is a change set (image-spec, layer.md): it may replace and white out what came before."""
    skips_links: bool = False
    """Whether symbolic and hard links are passed over, as the kind's own tool does."""

    @property
    def root(self) -> Name | None:
        """The directory that holds whatever the archive brings, None for the volume's root."""
        above = self.directory.components if self.directory else ()
        below = self.prefix.components if self.prefix else ()
        return Name(above + below) if above or below else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A layer that the volume does not show, and why."""

    layer: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files of a volume in the order of their names, the archives in the order of their layers.

    `selection` is what archives' members still have to pass; entries have passed it. `single` says that the
    volume is one file itself.
    """

    entries: tuple[PlanEntry, ...] = ()
    archives: tuple[PlanArchive, ...] = ()
    left: tuple[LeftOut, ...] = ()
    selection: Selection = field(default_factory=Selection)
    single: bool = False

    @cached_property
    def digest(self) -> Digest:
        """The digest of all that a pod can see."""
        files = [[str(entry.name), str(entry.blob.digest), entry.blob.size, entry.mode] for entry in self.entries]
        archives = [
            [str(item.blob.digest), item.compression, str(item.directory or ""), str(item.prefix or ""),
             str(item.content or ""), item.is_image_layer, item.skips_links]
            for item in self.archives
        ]  # fmt: skip
        selection = self.selection.key if self.archives else ""
        canonical = json.dumps([_LAYOUT_VERSION, self.single, files, archives, selection], separators=(",", ":"))
        return Digest("sha256", hashlib.sha256(canonical.encode()).hexdigest())

    @property
    def can_be_lazy(self) -> bool:
        """Whether a volume can show it before it is here: what is in an archive is known when it is unpacked."""
        return not self.archives

    @cached_property
    def size(self) -> int:
        """The bytes of all files and, packed, of all archives."""
        return sum(entry.blob.size for entry in self.entries) + sum(archive.blob.size for archive in self.archives)

    @cached_property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Each blob that has to be fetched, once, in the order of the layers."""
        wanted = [(entry.layer, entry.blob) for entry in self.entries if not entry.is_local]
        wanted += [(archive.layer, archive.blob) for archive in self.archives]
        wanted.sort(key=lambda item: -1 if item[0] is None else item[0])
        return tuple({blob.digest: blob for _, blob in wanted}.values())

    @cached_property
    def places(self) -> dict[Digest, str]:
        """Where each blob stands in the artifact and what it is for, in words for an error message."""
        archives = {item.blob.digest: f"layer {item.layer} ({item.blob.digest.short})" for item in self.archives}
        entries = {
            entry.blob.digest: f"{'config' if entry.layer is None else f'layer {entry.layer}'} ({entry.name})"
            for entry in self.entries
        }
        return archives | entries
