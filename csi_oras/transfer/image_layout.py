"""Image layouts: an artifact as a directory (image-spec, image-layout.md), which ORAS, crane and skopeo read."""

import json
from pathlib import Path

from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.sources import Body, Span, in_memory, opened
from csi_oras.telemetry.progress import Counter
from csi_oras.transfer.compose import Composed
from csi_oras.transfer.push import PushedLayer


def write_layout(artifact: Composed, tag: str, directory: Path) -> None:
    """Write an artifact and the index that names it into a directory; what is there of it is written again.

    Raises:
        ContentChangedError: the bytes of a layer are not those that were described.
        UnobtainableError: they cannot be read.
        OSError: the directory cannot be written.
    """
    manifest = Descriptor.of(artifact.manifest.content, artifact.manifest.media_type)
    content = PushedLayer(blob=manifest, source=in_memory(artifact.manifest.content))
    for layer in (*artifact.layers, artifact.manifest.config, content):
        _write_blob(layer, directory / "blobs" / layer.blob.digest.algorithm)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {**manifest.to_json(), "annotations": {media_types.REF_NAME: tag}}
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [entry]}
    (directory / "index.json").write_text(json.dumps(index))


def _write_blob(layer: PushedLayer, directory: Path) -> None:
    blob, subject = layer.blob, f"layer {layer.blob.digest.short}"
    directory.mkdir(parents=True, exist_ok=True)
    with opened(layer.source, 0, subject) as stream, (directory / blob.digest.encoded).open("wb") as target:
        span = Span(start=0, length=blob.size)
        target.writelines(Body(stream, span, blob.digest.hasher(), Counter(blob.size), blob=blob, subject=subject))
