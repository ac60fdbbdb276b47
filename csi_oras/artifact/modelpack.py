"""CNCF ModelPack: a file or a tar in each layer, under the file path of its annotation.

The members of a tar carry their directories, so each tar begins at the volume's root. Of a file's metadata only
the executable bit counts. (model-spec: docs/spec.md, docs/annotations.md, docs/config.md)
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.filepath import annotation, path_of
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.errors import BadResponseError, HostileContentError
from csi_oras.oci import document as json
from csi_oras.oci import media_types
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, LeftOut, PlanArchive, PlanEntry

_PREFIXES = ("application/vnd.cncf.model.", "application/vnd.cnai.model.")
"""The second is from before the specification moved to the CNCF."""
_EXECUTABLE = 0o111


def _matches(manifest: Manifest) -> bool:
    types = (manifest.artifact_type, manifest.config.media_type, *(layer.media_type for layer in manifest.layers))
    return any(media_type.startswith(_PREFIXES) for media_type in types)


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    contents = _contents(artifact) if unpack else {}
    for number, layer in enumerate(artifact.manifest.layers):
        how = archives.compression(layer.media_type)
        name, rule = _name(artifact, number)
        if layer.media_type == media_types.EMPTY:
            yield LeftOut(layer=number, reason="is the empty descriptor")
        elif how is None:
            yield PlanEntry(name=name, blob=layer, layer=number, rule=rule, mode=_mode(artifact, number))
        elif unpack:
            content = _checkable(contents.get(number), layer.digest, how)
            yield PlanArchive(blob=layer, layer=number, rule="unpacked", compression=how, content=content)
        else:
            packed = artifact.name(archives.packed(str(name), how), number, rule)
            yield PlanEntry(name=packed, blob=layer, layer=number, rule=f"{rule}, packed")


def _name(artifact: Artifact, number: int) -> tuple[Name, str]:
    layer = artifact.manifest.layers[number]
    if path := path_of(artifact, number):
        return path, "filepath"
    if title := layer.annotations.get(media_types.TITLE):
        return artifact.name(title, number, "title"), "title"
    return by_digest(layer), "digest"


def _mode(artifact: Artifact, number: int) -> int:
    text = annotation(artifact, number, "file.metadata+json")
    if not text:
        return 0o444
    subject = f"{artifact.subject(number)}, file metadata"
    try:
        metadata = json.parse_object(text.encode(errors="surrogatepass"), subject)
    except BadResponseError as error:
        raise HostileContentError(subject, error.cause, "push the artifact again") from None
    mode = 0 if metadata.get("mode") is None else json.integer(metadata, "mode", subject)
    return 0o555 if mode & _EXECUTABLE else 0o444


def _contents(artifact: Artifact) -> dict[int, Digest]:
    """Return the digest of each layer before its compression, where the config has one for each."""
    modelfs = json.optional_object(artifact.config_document(), "modelfs", artifact.config_subject) or {}
    digests = archives.content_digests(modelfs, "diffIds", artifact.config_subject)
    return dict(enumerate(digests)) if len(digests) == len(artifact.manifest.layers) else {}


def _checkable(content: Digest | None, blob: Digest, how: Compression) -> Digest | None:
    # modctl writes the layers' own digests there: of a compressed layer that says nothing about its content
    return None if content == blob and how is not Compression.NONE else content


KIND = Kind(name="modelpack", matches=_matches, items=_items, reads_config=True)
