"""Container images, Docker's and OCI's: the layers applied in their order are a root file system.

Old ORAS clients gave an image's config type to artifacts of titled files: a title makes it no image. What is no
layer of an image (an attestation, say) is left out as containerd leaves it out, if the config agrees on the rest.
(image-spec: config.md, layer.md; containerd: core/unpack/unpacker.go)
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.errors import HostileContentError, UnsupportedContentError
from csi_oras.oci import document as json
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import LeftOut, PlanArchive, PlanEntry

_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.erofs.layer.")
_ELSEWHERE = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")


def _matches(manifest: Manifest) -> bool:
    config = manifest.config.media_type
    return (
        config in media_types.IMAGE_CONFIGS
        and manifest.artifact_type == config
        and any(_is_layer(layer) for layer in manifest.layers)
        and not any(_is_file_of_oras(layer) for layer in manifest.layers)
    )


def _is_layer(layer: Descriptor) -> bool:
    return layer.media_type.startswith(_LAYERS)


def _is_file_of_oras(layer: Descriptor) -> bool:
    return bool(layer.annotations.get(media_types.TITLE)) or media_types.UNPACK in layer.annotations


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    return _change_sets(artifact) if unpack else _files(artifact)


def _change_sets(artifact: Artifact) -> Iterator[PlanItem]:
    contents = iter(_diff_ids(artifact))
    for number, layer in enumerate(artifact.manifest.layers):
        if _is_layer(layer):
            yield _change_set(artifact, number, next(contents))
        else:
            yield LeftOut(layer=number, reason=f"media type {layer.media_type} is no layer of an image")


def _change_set(artifact: Artifact, number: int, content: Digest) -> PlanArchive:
    layer, subject = artifact.manifest.layers[number], artifact.subject(number)
    how = archives.compression(layer.media_type)
    if layer.media_type.startswith(_ELSEWHERE):
        remedy = "push the image again with all its layers in the registry"
        raise UnsupportedContentError(subject, "is a layer that may not be distributed", remedy)
    if how is None:
        cause = f"is a layer of type {layer.media_type}, which is not unpacked"
        raise UnsupportedContentError(subject, cause, "set unpack: never to mount it packed")
    return PlanArchive(
        blob=layer, layer=number, rule="image layer", compression=how, content=content, is_image_layer=True
    )


def _diff_ids(artifact: Artifact) -> list[Digest]:
    """Return what each layer is before its compression, as the config has it."""
    subject = artifact.config_subject
    rootfs = json.optional_object(artifact.config_document(), "rootfs", subject) or {}
    digests = archives.content_digests(rootfs, "diff_ids", subject)
    layers = sum(map(_is_layer, artifact.manifest.layers))
    if len(digests) != layers:
        raise HostileContentError(
            subject, f"lists {len(digests)} layers where the manifest has {layers}", "push the image again"
        )
    return digests


def _files(artifact: Artifact) -> Iterator[PlanItem]:
    for number, layer in enumerate(artifact.manifest.layers):
        how = archives.compression(layer.media_type)
        if how is None or not _is_layer(layer):
            yield titled(artifact, number, unpack=False)
        else:
            name = artifact.name(archives.packed(str(by_digest(layer)), how), number, "digest")
            yield PlanEntry(name=name, blob=layer, layer=number, rule="digest, packed")


KIND = Kind(name="image", matches=_matches, items=_items, reads_config=True)
