"""Layers in the making: files are hashed and directories packed, several at once, of any size in little memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.name import Name
from csi_oras.pack.found import File
from csi_oras.pack.layers import LayerPlan, PackedDirectory, WholeFile
from csi_oras.pack.tarball import pack
from csi_oras.pack.walk import SourceFile
from csi_oras.registry.sources import Readable, Source, in_file, in_memory
from csi_oras.store.paths import store_errors
from csi_oras.transfer.hashing import hash_blob
from csi_oras.transfer.push import PushedLayer

MOST_FILES = 1000
"""Layers from which on files are packed; each costs three requests here, and one wherever it is pulled."""
_PARALLEL = 4
"""Layers that are read at once, to be hashed or packed."""
_EMPTY = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerMaker:
    """Makes layers of files that `open_file` opens; `directory` is for what is packed."""

    open_file: Callable[[Name, File], SourceFile]
    directory: Path | None
    subject: str

    def file(self, layer: WholeFile) -> PushedLayer:
        """Return the layer that a file is.

        Raises:
            ContentChangedError, StoreBrokenError: it changed, or cannot be read.
        """
        with self.open_file(layer.name, layer.file) as file:
            hashed = hash_blob(file, layer.file.size)
        blob = Descriptor(
            media_type=media_types.LAYER_TAR,
            digest=hashed.digest,
            size=layer.file.size,
            annotations=MappingProxyType(layer.annotations),
        )
        return PushedLayer(blob=blob, source=self._source(layer), chunks=hashed.chunks)

    def packed(self, number: int, layer: PackedDirectory) -> PushedLayer:
        """Pack a directory, whose `number` no other has, and return the layer.

        Raises:
            ContentChangedError: somebody still writes there.
            NoSpaceError, StoreBrokenError: there is no room for it, or it cannot be read.
        """
        if self.directory is None:
            raise RuntimeError("a directory is to be packed, and there is no place for it")
        path = self.directory / str(number)
        with store_errors(f"{self.subject}, packing"), path.open("xb") as target:
            blob = pack(layer, self.open_file, target)
        return PushedLayer(blob=blob, source=in_file(path))

    def _source(self, layer: WholeFile) -> Source:
        @contextmanager
        def opened(offset: int) -> Iterator[Readable]:
            with self.open_file(layer.name, layer.file) as file:
                file.seek(offset)
                yield file

        return opened


def make_all(
    make: Callable[[int, LayerPlan], PushedLayer], plans: Sequence[LayerPlan], made: Callable[[PushedLayer], None]
) -> list[PushedLayer]:
    """Have layers made by their numbers, and hand each to `made` as soon as it and those before it are.

    Of none, one is made that is empty: registries want a layer, and ORAS does so.

    Raises:
        CsiOrasError: what `make` and `made` raise.
    """
    layers = []
    with ThreadPoolExecutor(_PARALLEL, "make") as pool:
        try:
            for layer in pool.map(make, range(len(plans)), plans):
                made(layer)
                layers.append(layer)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has begun is waited for, nothing else begins
            raise
    if not layers:
        layers = [PushedLayer(blob=Descriptor.of(_EMPTY, media_types.EMPTY), source=in_memory(_EMPTY))]
        made(layers[0])
    return layers
