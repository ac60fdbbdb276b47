"""Chunk indexes of an artifact, by the ways there are to one, and how far each is to be believed.

An index is a help and never a condition: one that is missing, broken, or not to be had is logged, and the volume does
without. What is said of a blob counts only if it is said of that size, too.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from csi_oras.errors import LimitExceededError, StoreBrokenError, UnacceptableError, UnobtainableError
from csi_oras.oci import manifest as manifests
from csi_oras.oci import media_types
from csi_oras.oci.chunk_index import BlobIndex, ChunkIndex, indexed
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.chunk_indexes import OwnIndexes
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import ANONYMOUS, Grant, Grants, holder
from csi_oras.telemetry.logs import logger

_MOST_HINTS, _SECONDS = 10, 30.0
"""Referrers that are looked at, and the time after which no other one is."""
_LARGEST_MANIFEST, _MOST_LAYERS = 64 << 10, 16
_LARGEST_STORED = 64 << 20
"""Bytes of a manifest that was accepted as node policy says, which is no larger."""
_UNTYPED = ("", media_types.EMPTY)
"""What registries list that do not know the artifact type of a manifest."""

_Result = TypeVar("_Result")


class Trust(StrEnum):
    """How far an index is to be believed."""

    OWN = "own"
    """This node has made it, of bytes whose digest fitted."""
    BOUND = "bound"
    """The manifest names it by its digest: it is what the artifact's author says."""
    HINT = "hint"
    """It refers to the manifest: whoever may push to the repository may have said it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBlobIndex:
    """The chunks of one blob, and how far they are to be believed."""

    trust: Trust
    index: BlobIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIndexes:
    """What was found of an artifact's blobs, each by the best way there was."""

    blobs: Mapping[Digest, FoundBlobIndex]

    def of(self, blob: Descriptor) -> FoundBlobIndex | None:
        """Return what was found of a blob."""
        return self.blobs.get(blob.digest)

    def index_of(self, blob: Descriptor) -> BlobIndex | None:
        """Return the chunks of a blob, if any were found."""
        found = self.blobs.get(blob.digest)
        return found.index if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedIndex:
    """An index that comes with an artifact."""

    trust: Trust
    index: ChunkIndex


class ChunkIndexes:
    """Finds chunk indexes."""

    def __init__(self, own: OwnIndexes, content: ContentStore, grants: Grants, grant_key: bytes) -> None:
        """Take `grant_key` for what credentials are hashed with."""
        self._own = own
        self._content = content
        self._grants = grants
        self._grant_key = grant_key

    def find(
        self, client: RepositoryClient | None, manifest: Manifest, artifact: Digest, *, hints: bool = True
    ) -> FoundIndexes:
        """Return what there is of the layers of `manifest`, whose digest is `artifact`.

        The node's own indexes cost nothing and come first. No registry is asked where that is enough, or without a
        `client`; and none for `hints` where they are not wanted.
        """
        wanted = indexed(manifest.layers)
        found: dict[Digest, FoundBlobIndex] = {}

        def take(trust: Trust, find: Callable[[Descriptor], BlobIndex | None]) -> bool:
            for blob in wanted:
                if blob.digest not in found and (index := find(blob)):
                    found[blob.digest] = FoundBlobIndex(trust=trust, index=index)
            return len(found) == len(wanted)

        if not take(Trust.OWN, self._own.find) and client:
            for published in self._published(client, manifest, artifact, hints=hints):
                if take(published.trust, published.index.find):
                    break
        return FoundIndexes(blobs=found)

    def find_stored(self, client: RepositoryClient, artifact: Digest) -> FoundIndexes:
        """Return what there is of an artifact whose manifest is in the store.

        Raises:
            StoreBrokenError: it is not.
            UnacceptableError: it is none.
        """
        subject = f"manifest {artifact}"
        content = self._content.read(artifact, _LARGEST_STORED)
        found = manifests.parse(content, "", subject, most_layers=_LARGEST_STORED) if content else None
        if not isinstance(found, Manifest):
            raise StoreBrokenError(subject, "is not in the store", "it is fetched with the next volume")
        return self.find(client, found, artifact)

    def published(self, client: RepositoryClient, manifest: Manifest, artifact: Digest) -> PublishedIndex | None:
        """Return the index that comes with an artifact: the one that its manifest names, else one that covers it."""
        wanted = indexed(manifest.layers)
        for published in self._published(client, manifest, artifact, hints=True) if wanted else ():
            if published.trust is Trust.BOUND or all(published.index.find(blob) for blob in wanted):
                return published
        return None

    def _published(
        self, client: RepositoryClient, manifest: Manifest, artifact: Digest, *, hints: bool
    ) -> Iterator[PublishedIndex]:
        """Yield what comes with an artifact, the best first; each is fetched when it is its turn."""
        subject = f"chunk index of {client.repository.at(str(artifact))}"
        if manifest.chunk_index:
            bound = _passing_over(subject, partial(self._bound, client, manifest.chunk_index, manifest.layers, subject))
            if bound:
                yield PublishedIndex(trust=Trust.BOUND, index=bound)
        if not hints:
            return
        until = time.monotonic() + _SECONDS
        for entry in _passing_over(subject, lambda: _referrers(client, artifact)) or ():
            if time.monotonic() > until:
                return
            hint = _passing_over(subject, partial(_hint, client, entry, manifest.layers, subject))
            if hint:
                yield PublishedIndex(trust=Trust.HINT, index=hint)

    def _bound(
        self, client: RepositoryClient, digest: Digest, layers: Sequence[Descriptor], subject: str
    ) -> ChunkIndex:
        limit = ChunkIndex.most_bytes(layers)
        credential = client.credential.keyed_hash(self._grant_key) if client.credential else ANONYMOUS
        grant = Grant(client.repository, digest, holder(credential, client.lenders))
        kept = self._content.read(digest, limit) if self._grants.allow(*grant) else None
        content = client.unsized_blob(digest, limit) if kept is None else kept
        index = ChunkIndex.parse(content, subject)
        if kept is None:
            blob = Descriptor(media_type=media_types.CHUNK_INDEX, digest=digest, size=len(content))
            _passing_over(subject, lambda: self._content.put(blob, content))
            self._grants.add([grant])
        return index


def _passing_over(subject: str, action: Callable[[], _Result]) -> _Result | None:
    """Do what may fail without harm."""
    try:
        return action()
    except (UnobtainableError, UnacceptableError) as error:
        logger.warning("a chunk index is not used", subject=subject, cause=error.message)
        return None


def _referrers(client: RepositoryClient, artifact: Digest) -> list[Descriptor]:
    """List what may be an index, what says so first."""
    found = client.referrers(artifact)
    typed = [entry for entry in found if entry.artifact_type == media_types.CHUNK_INDEX]
    return (typed + [entry for entry in found if entry.artifact_type in _UNTYPED])[:_MOST_HINTS]


def _hint(client: RepositoryClient, entry: Descriptor, layers: Sequence[Descriptor], subject: str) -> ChunkIndex | None:
    fetched = client.manifest(str(entry.digest), limit=_LARGEST_MANIFEST, expected=entry.digest)
    parsed = manifests.parse(fetched.content, fetched.media_type, subject, most_layers=_MOST_LAYERS)
    limit = ChunkIndex.most_bytes(layers)
    for layer in parsed.layers if isinstance(parsed, Manifest) else ():
        if layer.media_type == media_types.CHUNK_INDEX:
            if layer.size > limit:
                raise LimitExceededError(subject, f"has {layer.size} bytes, more than the {limit} that it can need")
            return ChunkIndex.parse(client.small_blob(layer), subject)
    return None
