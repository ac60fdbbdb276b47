"""The generic kind: each layer is a file under its title, an untitled one under its digest.

The file name in the title is a convention of ORAS, not of the image specification; so is a directory's mark.
"""

from collections.abc import Iterator

from csi_oras.artifact import archives
from csi_oras.artifact.kind import Artifact, Kind, PlanItem, by_digest
from csi_oras.oci import media_types, titles
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, LeftOut, PlanArchive, PlanEntry

_PLAIN, _EXECUTABLE = 0o444, 0o555


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
    marked = titles.is_marked(layer)
    if marked and title.rstrip("/") == titles.ROOT:
        return _root(artifact, number, unpack=unpack)
    name = artifact.name(title.rstrip("/") if marked else title, number, "title")
    if not unpack or not titles.is_directory(layer):
        mode = _EXECUTABLE if titles.is_executable(layer) else _PLAIN
        return PlanEntry(name=name, blob=layer, layer=number, rule="title", mode=mode)
    return PlanArchive(
        blob=layer,
        layer=number,
        rule="title, unpacked",
        compression=Compression.GZIP,
        directory=None if marked or len(name.components) == 1 else Name(name.components[:-1]),
        prefix=name if marked else Name(name.components[-1:]),
        content=_content(artifact, number),
    )


def _root(artifact: Artifact, number: int, *, unpack: bool) -> PlanItem:
    """Return what `oras push .` makes of a directory: an archive of all there is, which as a file has no name."""
    layer = artifact.manifest.layers[number]
    if not unpack:
        return PlanEntry(name=by_digest(layer), blob=layer, layer=number, rule="digest")
    content = _content(artifact, number)
    return PlanArchive(blob=layer, layer=number, rule="title, unpacked", compression=Compression.GZIP, content=content)


def _content(artifact: Artifact, number: int) -> Digest | None:
    text = artifact.manifest.layers[number].annotations.get(media_types.CONTENT_DIGEST)
    return None if text is None else archives.content_digest(text, artifact.subject(number))


KIND = Kind(name="generic", matches=lambda _manifest: True, items=_items)
