"""Flux: tars of manifests, whose links Flux passes over, and single files without a name.

(fluxcd/pkg: oci/push.go, oci/pull.go)
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.oci import media_types
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import Compression, PlanArchive, PlanEntry

_CONFIG = "application/vnd.cncf.flux.config.v1+json"
_STATIC = "application/vnd.cncf.flux.content.v1"
_TAR = _STATIC + ".tar+gzip"


def _matches(manifest: Manifest) -> bool:
    return manifest.config.media_type == _CONFIG


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    for number, layer in enumerate(artifact.manifest.layers):
        if layer.media_type == _TAR and unpack:
            how = Compression.GZIP
            yield PlanArchive(blob=layer, layer=number, rule="unpacked", compression=how, skips_links=True)
        elif layer.media_type == _STATIC or layer.media_type.startswith(_STATIC + "."):
            yield _file(artifact, number)
        else:
            yield titled(artifact, number, unpack=unpack)


def _file(artifact: Artifact, number: int) -> PlanEntry:
    layer = artifact.manifest.layers[number]
    title = layer.annotations.get(media_types.TITLE)
    text, rule = (title, "title") if title else (str(by_digest(layer)), "digest")
    if layer.media_type == _TAR:
        name = artifact.name(text, number, rule)  # before a suffix makes something harmless of it
        text, rule = archives.packed(str(name), Compression.GZIP), f"{rule}, packed"
    elif not title:
        text += layer.media_type.removeprefix(_STATIC)  # the extension, with its dot
    return PlanEntry(name=artifact.name(text, number, rule), blob=layer, layer=number, rule=rule)


KIND = Kind(name="flux", matches=_matches, items=_items)
