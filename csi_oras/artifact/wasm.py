"""Wasm: one module or component, called after the repository unless it has a title.

There are two forms: the CNCF's (`application/wasm`) and the older one of the Wasm to OCI tools.
"""

from collections.abc import Iterator

from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem
from csi_oras.oci import media_types
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import PlanEntry

_LAYERS = frozenset({"application/wasm", "application/vnd.wasm.content.layer.v1+wasm"})


def _matches(manifest: Manifest) -> bool:
    return any(layer.media_type in _LAYERS for layer in manifest.layers)


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    untitled = [
        number
        for number, layer in enumerate(artifact.manifest.layers)
        if layer.media_type in _LAYERS and not layer.annotations.get(media_types.TITLE)
    ]
    for number, layer in enumerate(artifact.manifest.layers):
        if untitled == [number]:  # two could not have one name
            name = artifact.name(f"{artifact.basename}.wasm", number, "repository")
            yield PlanEntry(name=name, blob=layer, layer=number, rule="repository")
        else:
            yield titled(artifact, number, unpack=unpack)


KIND = Kind(name="wasm", matches=_matches, items=_items, goes_by_reference=True)
