"""The generic kind: each layer is a file under its title, an untitled one under its digest.

The file name in the title is a convention of ORAS, not of the image specification. A directory is a tar that ORAS
marks with an annotation, and that oras-py does not mark at all: there it shows by the media type that oras-py gives
nothing else, unless the title says that it is an archive.
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, LeftOut, PlanArchive, PlanEntry

_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: FBT001 (as every kind has it)
    for number in range(len(artifact.manifest.layers)):
        yield titled(artifact, number, unpack=unpack)


def titled(artifact: Artifact, number: int, *, unpack: bool) -> PlanItem:
    """Return the file or the directory that a layer is by its title, as ORAS has it.

    Raises:
        HostileContentError: a title that is no safe name, or a digest of the content that is none.
    """
    layer = artifact.manifest.layers[number]
    if layer.media_type == media_types.EMPTY:
        return LeftOut(layer=number, reason="is the empty descriptor")
    title = layer.annotations.get(media_types.TITLE)
    if not title:
        return PlanEntry(name=by_digest(layer), blob=layer, layer=number, rule="digest")
    marked = layer.annotations.get(media_types.UNPACK) == "true"
    name = artifact.name(title.rstrip("/") if marked else title, number, "title")
    if not unpack or not (marked or _is_packed_by_oras_py(layer, title)):
        return PlanEntry(name=name, blob=layer, layer=number, rule="title")
    content = layer.annotations.get(media_types.CONTENT_DIGEST)
    return PlanArchive(
        blob=layer,
        layer=number,
        rule="title, unpacked",
        compression=Compression.GZIP,
        directory=None if marked or len(name.components) == 1 else Name(name.components[:-1]),
        prefix=name if marked else Name(name.components[-1:]),
        content=None if content is None else archives.content_digest(content, artifact.subject(number)),
    )


def _is_packed_by_oras_py(layer: Descriptor, title: str) -> bool:
    return layer.media_type == media_types.LAYER_TAR_GZIP and not title.endswith(_ARCHIVE_SUFFIXES)


KIND = Kind(name="generic", matches=lambda _manifest: True, items=_items)
