"""KitOps ModelKits: a Kitfile, which is the config, and a tar for each thing that it names.

Newer kits say in the Kitfile which layer belongs to an entry and carry whole paths in their tars; the tars of older
ones begin in the directory of the entry's path. A parent kit that a model refers to is an artifact of its own, and
no layer of this one. (kitops-ml/kitops: pkg/artifact/kitfile.go, pkg/cmd/unpack/unpack.go)
"""

from collections.abc import Iterator
from typing import Any

from csi_oras.artifact import archives
from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.errors import HostileContentError
from csi_oras.oci import document as json
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, PlanArchive, PlanEntry

_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"
_LAYER = "application/vnd.kitops.modelkit."
_TYPES = ("model", "modelpart", "code", "dataset", "docs")
_KITFILE = Name(("Kitfile",))


def _matches(manifest: Manifest) -> bool:
    return manifest.config.media_type == _CONFIG


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    yield PlanEntry(name=_KITFILE, blob=artifact.manifest.config, layer=None, rule="config")
    left = _entries(artifact) if unpack else {}
    for number, layer in enumerate(artifact.manifest.layers):
        kind = layer.media_type.removeprefix(_LAYER).partition(".")[0]
        how = archives.compression(layer.media_type)
        if how is None or kind not in _TYPES or not layer.media_type.startswith(_LAYER):
            yield titled(artifact, number, unpack=unpack)
        elif not unpack:
            name = artifact.name(archives.packed(str(by_digest(layer)), how), number, "digest")
            yield PlanEntry(name=name, blob=layer, layer=number, rule="digest, packed")
        else:
            yield _archive(artifact, number, _next(left[kind], kind, artifact.subject(number)), how)


def _entries(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Return the Kitfile's entries by type, in their order, which is that of the layers of the type."""
    subject, kitfile = artifact.config_subject, artifact.config_document()
    model = json.optional_object(kitfile, "model", subject) or {}
    return {
        "model": [model] if model else [],
        "modelpart": _objects(model, "parts", subject),
        "code": _objects(kitfile, "code", subject),
        "dataset": _objects(kitfile, "datasets", subject),
        "docs": _objects(kitfile, "docs", subject),
    }


def _objects(document: dict[str, Any], key: str, subject: str) -> list[dict[str, Any]]:
    return [] if document.get(key) is None else json.objects(document, key, subject)


def _next(entries: list[dict[str, Any]], kind: str, subject: str) -> dict[str, Any]:
    if not entries:
        raise HostileContentError(subject, f"the Kitfile has no {kind} for it", "pack the kit again")
    return entries.pop(0)


def _archive(artifact: Artifact, number: int, entry: dict[str, Any], how: Compression) -> PlanArchive:
    layer, subject = artifact.manifest.layers[number], artifact.subject(number)
    digest, content = (json.text(entry, key, artifact.config_subject, "") for key in ("digest", "diffId"))
    if digest and digest != str(layer.digest):
        raise HostileContentError(subject, "the Kitfile gives another digest for it", "pack the kit again")
    path = json.text(entry, "path", artifact.config_subject, "")
    above = _directory(artifact, number, path) if path or not digest else None
    return PlanArchive(
        blob=layer,
        layer=number,
        rule="unpacked" if digest else "Kitfile path, unpacked",
        compression=how,
        directory=None if digest else above,
        content=archives.content_digest(content, subject) if content else None,
    )


def _directory(artifact: Artifact, number: int, path: str) -> Name | None:
    """Return the directory that a Kitfile's path is in; people write `./data/` there, and `.` for everything."""
    if path in {".", "./"}:
        return None
    plain = path.removeprefix("./").removesuffix("/")
    components = artifact.name(plain or path, number, "Kitfile path").components
    return Name(components[:-1]) if len(components) > 1 else None


KIND = Kind(name="kitops", matches=_matches, items=_items, reads_config=True)
