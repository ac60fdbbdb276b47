"""Apptainer's SIF images: one file that can be run, called as it was pushed or as `apptainer pull` would call it.

The config's type differs between versions of Apptainer, which itself goes by the layer alone.
(apptainer/apptainer: internal/pkg/client/oras/oras.go, internal/pkg/util/uri/uri.go)
"""

from collections.abc import Iterator

from csi_oras.artifact.kind import Artifact, Kind, PlanItem
from csi_oras.oci import media_types
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import PlanEntry

_LAYERS = frozenset({
    "application/vnd.sylabs.sif.layer.v1.sif",
    "appliciation/vnd.sylabs.sif.layer.tar",  # sic: what its first releases pushed
})  # fmt: skip


def _matches(manifest: Manifest) -> bool:
    return len(manifest.layers) == 1 and manifest.layers[0].media_type in _LAYERS


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: ARG001, FBT001 (it is never unpacked)
    layer = artifact.manifest.layers[0]
    title = layer.annotations.get(media_types.TITLE)
    tag = f"_{artifact.reference.tag}" if artifact.reference.tag else ""
    rule = "title" if title else "repository and tag"
    name = artifact.name(title or f"{artifact.basename}{tag}.sif", 0, rule)
    yield PlanEntry(name=name, blob=layer, layer=0, rule=rule, mode=0o555)


KIND = Kind(name="sif", matches=_matches, items=_items, goes_by_reference=True)
