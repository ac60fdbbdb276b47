"""Manifests and indexes: the graph of descriptors that an artifact is."""

from dataclasses import dataclass
from typing import Any

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
    UnacceptableError,
    UnsupportedContentError,
    printable,
)
from csi_oras.oci import document as json
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor, media_type
from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An OCI image manifest or Docker's version 2, schema 2."""

    media_type: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    chunk_index: Digest | None = None
    """What the manifest says its chunk index is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An OCI image index or Docker's manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]

    def select(self, platform: Platform, subject: str) -> Descriptor:
        """Choose the manifest for `platform`, the same one every time.

        Attestations are never chosen. First comes an entry of the very platform, then one of another variant
        or of none, then the only entry that names no platform at all.

        Raises:
            UnsupportedContentError: nothing fits; the message lists what there is.
        """
        choices = [entry for entry in self.manifests if not _is_attestation(entry)]
        same = [
            entry
            for entry in choices
            if entry.platform
            and (entry.platform.os, entry.platform.architecture) == (platform.os, platform.architecture)
        ]
        exact = [entry for entry in same if entry.platform and entry.platform.variant == platform.variant]
        plain = [entry for entry in same if entry.platform and not (entry.platform.variant and platform.variant)]
        unnamed = [entry for entry in choices if entry.platform is None]
        for found in (exact, plain, unnamed if len(unnamed) == 1 else []):
            if found:
                return found[0]
        there = ", ".join(sorted({str(entry.platform) for entry in choices if entry.platform})) or "none"
        raise UnsupportedContentError(
            subject,
            f"has no manifest for platform {platform} (there are: {printable(there, 200)})",
            "set platform",
        )


def parse(content: bytes, declared: str, subject: str, *, most_layers: int) -> Manifest | Index:
    """Read a manifest or an index; `declared` is the media type that the registry gave, if it is known.

    Raises:
        BadResponseError: no JSON.
        HostileContentError: a malformed document, or one that two readers could take for two things.
        UnsupportedContentError: a kind of document that is not mounted.
        LimitExceededError: more than `most_layers` layers or entries.
    """
    document = json.parse_object(content, subject)
    kind = media_type(document, "mediaType", subject, default=declared.partition(";")[0].strip().lower())
    if not kind:  # optional in the document, and the store keeps no headers
        kind = media_types.OCI_INDEX if "manifests" in document else media_types.OCI_MANIFEST
    if document.get("schemaVersion") == 1 or kind.startswith(media_types.DOCKER_SCHEMA1):
        raise UnsupportedContentError(subject, "is a Docker schema 1 manifest", "push it again with a current tool")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise HostileContentError(subject, "is a manifest and an index at once")  # CVE-2021-41190
    if kind in media_types.INDEXES:
        entries = _descriptors(document, "manifests", subject, most_layers)
        return Index(media_type=kind, manifests=entries)
    if kind in media_types.MANIFESTS:
        return _parse_manifest(document, kind, subject, most_layers)
    raise UnsupportedContentError(subject, f'has media type "{printable(kind, 80)}", which cannot be mounted')


def _parse_manifest(document: dict[str, Any], kind: str, subject: str, most_layers: int) -> Manifest:
    config_document = json.optional_object(document, "config", subject)
    if config_document is None:
        raise HostileContentError(subject, "has no config")
    config = Descriptor.parse(config_document, f"{subject}, config")
    declared = media_type(document, "artifactType", subject, default="")
    return Manifest(
        media_type=kind,
        artifact_type=declared or config.media_type,  # image-spec, manifest.md, Guidelines for Artifact Usage
        config=config,
        layers=_descriptors(document, "layers", subject, most_layers),
        chunk_index=_chunk_index(document),
    )


def _chunk_index(document: dict[str, Any]) -> Digest | None:
    """Return the annotation; one that is wrong counts as none, for nobody has to have an index."""
    annotations = document.get("annotations")
    try:
        return Digest.parse(annotations.get(media_types.CHUNK_INDEX_DIGEST) if isinstance(annotations, dict) else None)
    except UnacceptableError:
        return None


def _descriptors(document: dict[str, Any], key: str, subject: str, most: int) -> tuple[Descriptor, ...]:
    found = json.objects(document, key, subject)
    if len(found) > most:
        raise LimitExceededError(subject, f"has {len(found)} {key}, more than the {most} that node policy allows")
    word = "layer" if key == "layers" else "entry"
    return tuple(Descriptor.parse(item, f"{subject}, {word} {number}") for number, item in enumerate(found))


def _is_attestation(entry: Descriptor) -> bool:
    unknown = entry.platform is not None and "unknown" in (entry.platform.os, entry.platform.architecture)
    return unknown or media_types.ATTESTATION in entry.annotations
