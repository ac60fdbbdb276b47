"""Resolving: from a reference to the one manifest that it means on a platform, each document proven and kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from csi_oras.errors import LimitExceededError, SizeMismatchError, UnsupportedContentError
from csi_oras.oci import manifest as manifests
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Index, Manifest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.registry.answers import FetchedManifest
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import Grant, Grants

_DEEPEST_INDEX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLimits:
    """Bytes of a manifest, and layers or entries in one."""

    manifest_bytes: int
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a reference means: its root, and the manifest that the root leads to, of `size` bytes."""

    root: Digest
    artifact: Digest
    size: int
    manifest: Manifest


def lead(
    document: FetchedManifest,
    platform: Platform,
    subject: str,
    *,
    parse: Callable[[FetchedManifest], Manifest | Index],
    fetch: Callable[[Digest], FetchedManifest],
) -> Resolved:
    """Return the manifest that `document` is, or leads to on a platform as an index.

    Raises:
        UnacceptableError: a document is not what it should be, or there is none for the platform.
    """
    root = document.digest
    for _ in range(_DEEPEST_INDEX):
        parsed = parse(document)
        if isinstance(parsed, Manifest):
            return Resolved(root=root, artifact=document.digest, size=len(document.content), manifest=parsed)
        chosen = parsed.select(platform, subject)
        document = replace(fetch(chosen.digest), media_type=chosen.media_type)
        if len(document.content) != chosen.size:
            raise SizeMismatchError(
                f"{subject}, manifest {chosen.digest.short}",
                f"has {len(document.content)} bytes, not {chosen.size}",
            )
    raise UnsupportedContentError(subject, "is an index of indexes, nested too deeply")


class Resolver:
    """Fetches manifests and indexes, or takes them from the store where the credential was seen to read them."""

    def __init__(self, content: ContentStore, grants: Grants, limits: Callable[[], ManifestLimits]) -> None:
        self._content = content
        self._grants = grants
        self._limits = limits

    def root(self, client: RepositoryClient, reference: Reference) -> Digest:
        """Ask the registry for the manifest or index of `reference`, keep it, and return its digest.

        Raises:
            UnobtainableError: it cannot be got.
            UnacceptableError: it is not what it should be.
        """
        document = self._fetch(client, reference.identifier, reference.digest)
        self._parse(document, str(reference))
        return document.digest

    def resolve(self, client: RepositoryClient, reference: Reference, platform: Platform, credential: str) -> Resolved:
        """Return the manifest of `reference` for `platform`; `credential` is the hash that grants are kept under.

        Raises:
            UnobtainableError: it cannot be got.
            UnacceptableError: a document is not what it should be, or there is none for the platform.
        """
        subject = str(reference)
        fetched = self._kept(client, reference.digest, credential) if reference.digest else None
        fetched = fetched or self._fetch(client, reference.identifier, reference.digest)

        def parse(document: FetchedManifest) -> Manifest | Index:
            parsed = self._parse(document, subject)
            self._grants.add([Grant(client.repository, document.digest, credential)])
            return parsed

        def fetch(digest: Digest) -> FetchedManifest:
            return self._kept(client, digest, credential) or self._fetch(client, str(digest), digest)

        return lead(fetched, platform, subject, parse=parse, fetch=fetch)

    def config(self, client: RepositoryClient, resolved: Resolved, credential: str, subject: str) -> bytes:
        """Return the config of an artifact, from the store where this credential was seen to read it.

        Raises:
            LimitExceededError: it is larger than a manifest may be.
            UnobtainableError, UnacceptableError: as for a manifest.
        """
        config, limit = resolved.manifest.config, self._limits().manifest_bytes
        if config.size > limit:
            raise LimitExceededError(
                f"{subject}, config",
                f"has {config.size} bytes, node policy allows {limit}",
                "raise limits.manifestBytes",
            )
        if self._grants.allow(client.repository, config.digest, credential):
            kept = self._content.read(config.digest, limit)
            if kept is not None:
                return kept
        content = client.small_blob(config)
        self._content.put(config, content)
        self._grants.add([Grant(client.repository, config.digest, credential)])
        return content

    def _kept(self, client: RepositoryClient, digest: Digest, credential: str) -> FetchedManifest | None:
        if not self._grants.allow(client.repository, digest, credential):
            return None
        content = self._content.read(digest, self._limits().manifest_bytes)
        return None if content is None else FetchedManifest(digest=digest, content=content, media_type="")

    def _fetch(self, client: RepositoryClient, identifier: str, expected: Digest | None) -> FetchedManifest:
        return client.manifest(identifier, limit=self._limits().manifest_bytes, expected=expected)

    def _parse(self, document: FetchedManifest, subject: str) -> Manifest | Index:
        """Read a document, and keep it: nothing that is no manifest gets into the store."""
        limit = self._limits().layers
        parsed = manifests.parse(document.content, document.media_type, subject, most_layers=limit)
        size = len(document.content)
        self._content.put(Descriptor(media_type=parsed.media_type, digest=document.digest, size=size), document.content)
        return parsed
