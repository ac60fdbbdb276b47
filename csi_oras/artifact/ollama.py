"""Ollama models: layers without names, called after their type, or laid out as an Ollama server keeps them.

Unpacked, a model is `model.gguf` with its template, parameters and licence beside it. As it is (`unpack: never`),
the volume is what OLLAMA_MODELS may point at. (ollama/ollama: manifest/paths.go, types/model/name.go)
"""

from collections.abc import Iterator

from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.artifact.numbering import Numbering
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import PlanEntry

_LAYER = "application/vnd.ollama.image."
_MODEL, _ADAPTER = _LAYER + "model", _LAYER + "adapter"
_NAMES = {
    _LAYER + "projector": ("mmproj", ".gguf"),
    _LAYER + "draft": ("draft", ".gguf"),
    _LAYER + "template": ("template", ""),
    _LAYER + "prompt": ("prompt", ""),
    _LAYER + "system": ("system", ""),
    _LAYER + "params": ("params", ".json"),
    _LAYER + "messages": ("messages", ".json"),
    _LAYER + "license": ("license", ""),
    _LAYER + "embed": ("embed", ""),
}


def _matches(manifest: Manifest) -> bool:
    return any(layer.media_type.startswith(_LAYER) for layer in manifest.layers)


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    return _by_type(artifact) if unpack else _server_layout(artifact)


def _by_type(artifact: Artifact) -> Iterator[PlanItem]:
    numbering = Numbering(layer.media_type for layer in artifact.manifest.layers)
    for number, layer in enumerate(artifact.manifest.layers):
        if named := _named(layer, numbering):
            yield PlanEntry(name=named, blob=layer, layer=number, rule="type")
        elif layer.name and layer.media_type.startswith(_LAYER):  # tensors and the JSON beside them
            name = artifact.name(layer.name, number, "name")
            yield PlanEntry(name=name, blob=layer, layer=number, rule="name")
        else:
            yield titled(artifact, number, unpack=False)


def _named(layer: Descriptor, numbering: Numbering) -> Name | None:
    if layer.media_type == _MODEL:
        return numbering.shard(_MODEL, "model", ".gguf")
    if layer.media_type == _ADAPTER:
        return numbering.name(_ADAPTER, "adapter", ".gguf", always=True)
    if layer.media_type in _NAMES:
        return numbering.name(layer.media_type, *_NAMES[layer.media_type])
    return None


def _server_layout(artifact: Artifact) -> Iterator[PlanItem]:
    repository = artifact.reference.repository
    path = f"manifests/{repository.registry}/{repository.name}/{artifact.reference.tag or 'latest'}"
    manifest = Descriptor(media_type=artifact.manifest.media_type, digest=artifact.digest, size=artifact.size)
    name = artifact.name(path, None, "manifest path", portable=False)  # the registry may have a port
    yield PlanEntry(name=name, blob=manifest, layer=None, rule="ollama", is_local=True)
    yield PlanEntry(name=_blob(artifact.manifest.config), blob=artifact.manifest.config, layer=None, rule="ollama")
    for number, layer in enumerate(artifact.manifest.layers):
        yield PlanEntry(name=_blob(layer), blob=layer, layer=number, rule="ollama")


def _blob(blob: Descriptor) -> Name:
    return Name(("blobs", *by_digest(blob).components))


KIND = Kind(name="ollama", matches=_matches, items=_items, goes_by_reference=True)
