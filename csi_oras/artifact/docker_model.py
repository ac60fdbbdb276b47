"""Docker Model Runner: version 0.1 names files by their type, 0.2 by the file path of each layer.

(docker/model-runner: pkg/distribution/internal/bundle/unpack.go)
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.filepath import path_of
from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.artifact.numbering import Numbering
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, PlanArchive, PlanEntry

_CONFIG = "application/vnd.docker.ai.model.config."
_TYPE = "application/vnd.docker.ai."
_ARCHIVES = frozenset({_TYPE + "vllm.config.tar", _TYPE + "dir.tar"})
_GGUF, _SAFETENSORS = _TYPE + "gguf.v3", _TYPE + "safetensors"
_LORA, _MMPROJ = _TYPE + "gguf.v3.lora", frozenset({_TYPE + "mmproj", _TYPE + "gguf.v3.mmproj"})
_TEMPLATE, _LICENSE, _DDUF = _TYPE + "chat.template.jinja", _TYPE + "license", _TYPE + "dduf"


def _matches(manifest: Manifest) -> bool:
    return manifest.config.media_type.startswith(_CONFIG)


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    is_first_version = artifact.manifest.config.media_type.startswith(_CONFIG + "v0.1")
    numbering = Numbering(layer.media_type for layer in artifact.manifest.layers)
    for number, layer in enumerate(artifact.manifest.layers):
        path = path_of(artifact, number)  # a hostile one is refused though 0.1 would not use it
        name = _name_by_type(layer.media_type, path, numbering) if is_first_version else path
        if is_first_version and layer.media_type in _ARCHIVES:
            yield _archive(artifact, number, path, unpack=unpack)
        elif name is None:
            yield titled(artifact, number, unpack=False)
        else:
            yield PlanEntry(name=name, blob=layer, layer=number, rule="filepath" if name is path else "type")


def _name_by_type(media_type: str, path: Name | None, numbering: Numbering) -> Name | None:
    """Return the name that version 0.1 gives: weights have fixed ones, whatever their annotations say."""
    if media_type == _GGUF:
        return numbering.shard(media_type, "model", ".gguf")
    if media_type in _MMPROJ:
        return numbering.name(media_type, "model", ".mmproj")
    if media_type == _TEMPLATE:
        return numbering.name(media_type, "template", ".jinja")
    by_type = {
        _SAFETENSORS: lambda: numbering.shard(media_type, "model", ".safetensors"),
        _LORA: lambda: numbering.name(media_type, "adapter", ".gguf", always=True),
        _LICENSE: lambda: numbering.name(media_type, "license"),
        _DDUF: lambda: numbering.name(media_type, "model", ".dduf"),
    }
    named = by_type[media_type]() if media_type in by_type else None
    return path or named


def _archive(artifact: Artifact, number: int, path: Name | None, *, unpack: bool) -> PlanItem:
    layer = artifact.manifest.layers[number]
    if unpack:
        how = Compression.NONE
        return PlanArchive(blob=layer, layer=number, rule="unpacked", compression=how, skips_links=True)
    text = archives.packed(str(path or by_digest(layer)), Compression.NONE)
    rule = "filepath, packed" if path else "digest, packed"
    return PlanEntry(name=artifact.name(text, number, "filepath"), blob=layer, layer=number, rule=rule)


KIND = Kind(name="docker-model", matches=_matches, items=_items)
