"""Pushes: an artifact's blobs, then its manifest by digest; its tag is moved last, by whoever has it pushed.

What the layers are made of is not known here: files that a person names (`files`), or what a pod wrote.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.sources import Source, in_memory
from csi_oras.telemetry.progress import Counter, Progress
from csi_oras.transfer.turns import Turns

_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedLayer:
    """A blob that an artifact needs, and where its bytes are."""

    blob: Descriptor
    source: Source
    mount_from: Repository | None = None
    """A repository that has it, from which the registry may take it instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewManifest:
    """A manifest to be pushed, byte by byte, and its config."""

    content: bytes
    media_type: str
    config: PushedLayer

    @property
    def digest(self) -> Digest:
        """What it will be known by."""
        return Digest.of(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedArtifact:
    """What a push made; bytes of all layers, and of those that had to be sent."""

    digest: Digest
    size: int
    sent: int


def manifest_of(
    layers: Sequence[Descriptor], artifact_type: str = "", annotations: Mapping[str, str] | None = None
) -> NewManifest:
    """Return the manifest of an artifact as `oras push` writes it; the same of the same layers."""
    config = Descriptor.of(b"{}", media_types.EMPTY)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": artifact_type or media_types.UNKNOWN_ARTIFACT,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return NewManifest(
        content=json.dumps(document, separators=(",", ":")).encode(),
        media_type=media_types.OCI_MANIFEST,
        config=PushedLayer(blob=config, source=in_memory(b"{}")),
    )


class Pusher:
    """Pushes artifacts, so many blobs to a registry at once; those who push to it take turns."""

    def __init__(self, share: int = _SHARE) -> None:
        """Push up to `share` blobs to a registry at once."""
        self._turns = Turns("push", share)

    def push(
        self, client: PushClient, layers: Sequence[PushedLayer], manifest: NewManifest, progress: Progress
    ) -> PushedArtifact:
        """Push what is missing of an artifact; all but its tag is there then.

        Raises:
            UnobtainableError: the registry does not take it, or the bytes of a layer cannot be read.
            UnacceptableError: the registry does not behave.
        """
        sent = self._send_all(client, layers, progress)
        _send(client, manifest.config, Counter(manifest.config.blob.size))
        digest = client.put_manifest(str(manifest.digest), manifest.content, manifest.media_type)
        return PushedArtifact(digest=digest, size=sum(layer.blob.size for layer in layers), sent=sent)

    def _send_all(self, client: PushClient, layers: Sequence[PushedLayer], progress: Progress) -> int:
        who, work = object(), []
        for layer in {layer.blob.digest: layer for layer in layers}.values():
            counter = Counter(layer.blob.size)
            progress.join(layer.blob.digest, counter, layer.blob.annotations.get(media_types.TITLE, ""))
            action = partial(_send, client, layer, counter)
            work.append(self._turns.submit(client.repository.registry, who, action))
        try:
            return sum(future.result() for future in work)
        except BaseException:
            for future in work:
                future.cancel()
            raise


def _send(client: PushClient, layer: PushedLayer, counter: Counter) -> int:
    """Push a blob if it is missing, and return how many bytes had to be sent."""
    if client.has_blob(layer.blob.digest):
        counter.finish()
        return 0
    is_sent = client.upload(layer.blob, layer.source, counter, layer.mount_from)
    return layer.blob.size if is_sent else 0
