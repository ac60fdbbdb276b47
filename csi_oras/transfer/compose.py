"""Composing: the layers of a volume that was surveyed, with where their bytes are, and the manifest over them.

The same content over the same base in the same pod makes the same bytes, so that a push that was killed goes on as if
nothing had happened.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from csi_oras.artifact import generic
from csi_oras.oci import media_types, titles
from csi_oras.oci.chunk_index import BlobIndex, ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.pack.layers import LayerPlan, PackedDirectory, Reused, WholeFile
from csi_oras.pack.survey import Survey
from csi_oras.registry.sources import Source, in_memory
from csi_oras.store.writable import WritableVolume
from csi_oras.telemetry.events import Pod
from csi_oras.transfer.bases import EMPTY, FoundBase
from csi_oras.transfer.making import LayerMaker, make_all
from csi_oras.transfer.push import NewManifest, PushedLayer, manifest_of

_EMPTY = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """An artifact that is ready to be pushed."""

    layers: tuple[PushedLayer, ...]
    manifest: NewManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Makes an artifact of a volume, of whose files `maker` makes layers.

    `base_source` says where the bytes of a blob of the base are, `base_chunks` what its chunks are, if that is known.
    """

    volume: WritableVolume
    base: FoundBase | None
    maker: LayerMaker
    base_source: Callable[[Descriptor], Source]
    base_chunks: Callable[[Descriptor], BlobIndex | None]

    def compose(self, found: Survey, made: Callable[[PushedLayer], None]) -> Composed:
        """Return what a volume becomes: its base as it is, where nothing changed and that reads the same.

        Each layer is handed to `made` as soon as the bytes of it and of those before it are known.

        Raises:
            ContentChangedError: somebody still writes to it.
            NoSpaceError, StoreBrokenError: it cannot be read, or packed.
        """
        if self.base and not found.is_changed and self.base.is_shown_by(self.volume.reference):
            unchanged = self._unchanged(self.base)
            for layer in unchanged.layers:
                made(layer)
            return unchanged
        layers = make_all(self._layer, found.layers, made)
        blobs = [layer.blob for layer in layers]
        if self.base and self.base.has_just(blobs):  # it was written to, but with the same bytes
            return self._unchanged(self.base)
        index = ChunkIndex.of(layer.chunks for layer in layers)
        manifest = manifest_of([layer.blob for layer in layers], self._artifact_type(), self._annotations(), index)
        return Composed(layers=tuple(layers), manifest=manifest)

    def _unchanged(self, base: FoundBase) -> Composed:
        layers = tuple(self._of_base(base, blob) for blob in base.manifest.layers)
        index = ChunkIndex.of(layer.chunks for layer in layers)
        manifest = NewManifest(
            content=base.content,
            media_type=base.manifest.media_type,
            config=self._of_base(base, base.manifest.config),
            index=index if index and index.descriptor.digest == base.manifest.chunk_index else None,
        )
        return Composed(layers=layers, manifest=manifest)

    def _of_base(self, base: FoundBase, blob: Descriptor) -> PushedLayer:
        source = in_memory(_EMPTY) if blob.digest == EMPTY else self.base_source(blob)
        chunks = self.base_chunks(blob)
        return PushedLayer(blob=blob, source=source, mount_from=base.repository, chunks=chunks)

    def _layer(self, number: int, layer: LayerPlan) -> PushedLayer:
        if isinstance(layer, WholeFile):
            return self._file(layer)
        if isinstance(layer, PackedDirectory):
            return self.maker.packed(number, layer)
        return self._reused(layer)

    def _reused(self, layer: Reused) -> PushedLayer:
        if self.base is None:
            raise RuntimeError("a layer is to be reused of no base")
        return self._of_base(self.base, self._titled(layer.descriptor))

    def _titled(self, blob: Descriptor) -> Descriptor:
        """Return a layer of the base as one of a kind that goes by titles: others go by types of their own."""
        if self.base is None or self.base.planned.kind is generic.KIND or titles.is_directory(blob):
            return blob
        return replace(blob, media_type=media_types.LAYER_TAR)

    def _file(self, layer: WholeFile) -> PushedLayer:
        made = self.maker.file(layer)
        blob = made.blob
        if layer.before and layer.before.digest == blob.digest and _reads_as(layer.before, layer):
            blob = self._titled(layer.before)
        mount_from = self.base.repository if self.base and blob.digest in self.base.digests else None  # by any name
        return replace(made, blob=blob, mount_from=mount_from)

    def _artifact_type(self) -> str:
        """Return the base's, if what is pushed is still of that kind: titled files."""
        if self.base is None or self.base.planned.kind is not generic.KIND:
            return ""
        declared = self.base.manifest.artifact_type
        return "" if declared == media_types.EMPTY or declared in media_types.IMAGE_CONFIGS else declared

    def _annotations(self) -> dict[str, str]:
        annotations = {media_types.CREATED: self.volume.created.isoformat().replace("+00:00", "Z")}
        if self.base:
            reference = self.base.base.reference
            tag = f":{reference.tag}" if reference.tag else ""
            annotations[media_types.BASE_NAME] = f"{reference.repository}{tag}"
            annotations[media_types.BASE_DIGEST] = str(self.base.base.artifact)
        if pod := Pod.find(self.volume.pod, self.volume.namespace, self.volume.uid):
            annotations[media_types.POD_NAMESPACE] = pod.namespace
            annotations[media_types.POD_NAME] = pod.name
        return annotations


def _reads_as(before: Descriptor, layer: WholeFile) -> bool:
    """Say whether the base's layer shows the same file under a title."""
    is_titled = before.annotations.get(media_types.TITLE) == layer.title and not titles.is_directory(before)
    return is_titled and titles.is_executable(before) == layer.file.is_executable
