"""Tarballs: a directory as ORAS packs it (oras-go, content/file), and the same bytes for the same content everywhere.

Members have the directory's title before their names, and neither times nor owners. zlib's output is the same on every
processor, which is why it is taken here and isal is not. Hard links do not exist: ORAS packs them as files, too.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from types import MappingProxyType
from typing import BinaryIO, Protocol

from csi_oras.oci import media_types, titles
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.pack.found import File, Link
from csi_oras.pack.layers import PackedDirectory
from csi_oras.pack.merge import Carried

_LEVEL = 1
"""Three times as fast as the usual one; a pod's end waits for it."""
_GZIP = 16 + zlib.MAX_WBITS
"""zlib's word for gzip, whose header it gives no time and no name."""
_BLOCK_BYTES = 256 << 10
_FILE_MODE, _EXECUTABLE_MODE, _LINK_MODE = 0o644, 0o755, 0o777
_END = bytes(2 * tarfile.BLOCKSIZE)


class Source(Protocol):
    """An open file, which gives as many bytes as the walk has found, or fails."""

    def readinto(self, buffer: bytearray, /) -> int | None:
        """Fill `buffer` as far as the file goes."""

    def close(self) -> None:
        """Close it."""


def pack(directory: PackedDirectory, open_file: Callable[[Name, File], Source], target: BinaryIO) -> Descriptor:
    """Write a directory to `target` as a gzipped tar, in bounded memory, and describe what was written.

    Raises:
        CsiOrasError: what `open_file` and its files raise.
    """
    tar, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)

    def write(content: bytes) -> None:
        nonlocal size
        packed.update(content)
        target.write(content)
        size += len(content)

    for block in _blocks(_tar(directory, open_file)):
        tar.update(block)
        write(compressor.compress(block))
    write(compressor.flush())
    annotations = {
        media_types.TITLE: directory.title,
        media_types.CONTENT_DIGEST: str(Digest("sha256", tar.hexdigest())),
        media_types.UNPACK: "true",
    }
    return Descriptor(
        media_type=media_types.LAYER_TAR_GZIP,
        digest=Digest("sha256", packed.hexdigest()),
        size=size,
        annotations=MappingProxyType(annotations),
    )


def _blocks(pieces: Iterator[bytes | memoryview]) -> Iterator[bytearray]:
    """Join pieces: zlib and hashes cost as much for few bytes as for many, and let no thread run meanwhile."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= _BLOCK_BYTES:
            yield block
            block.clear()
    yield block


def _tar(directory: PackedDirectory, open_file: Callable[[Name, File], Source]) -> Iterator[bytes | memoryview]:
    if directory.title == titles.ROOT:
        yield _header(titles.ROOT, tarfile.DIRTYPE, _EXECUTABLE_MODE)
    above: tuple[str, ...] = ()
    for name, found in directory.members:
        path = name.components if not isinstance(found, File | Link) else name.components[:-1]
        for depth in range(1, len(path) + 1):
            if path[:depth] != above[:depth]:
                yield _header("/".join(path[:depth]), tarfile.DIRTYPE, _EXECUTABLE_MODE)
        above = path
        yield from _member(name, found, open_file)
    yield _END


def _member(name: Name, found: Carried, open_file: Callable[[Name, File], Source]) -> Iterator[bytes | memoryview]:
    if isinstance(found, Link):
        yield _header(str(name), tarfile.SYMTYPE, _LINK_MODE, target=found.target)
    elif isinstance(found, File):
        mode = _EXECUTABLE_MODE if found.is_executable else _FILE_MODE
        yield _header(str(name), tarfile.REGTYPE, mode, size=found.size)
        buffer, left = bytearray(min(found.size, _BLOCK_BYTES)), found.size
        with closing(open_file(name, found)) as source:
            while left and (count := source.readinto(buffer)):
                yield memoryview(buffer)[:count]
                left -= count
        yield bytes(-found.size % tarfile.BLOCKSIZE)


def _header(name: str, kind: bytes, mode: int, *, size: int = 0, target: str = "") -> bytes:
    """Return the blocks of a header: ustar's, after those of pax where it does not hold all."""
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, size, target
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
