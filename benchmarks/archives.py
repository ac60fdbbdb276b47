"""Archives: samples packed as a container image's layer or as ORAS packs a directory, the same bytes in every run."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.content import Sample

_GZIP_LEVEL = 6
"""What docker and oras take."""
_GZIP_FORMAT = 31
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A tar+gzip archive in a file: its packed size, and the digest of the tar inside."""

    path: Path
    size: int
    content: str

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        with self.path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def pack(samples: Sequence[Sample], path: Path, directory: str = "") -> Packed:
    """Pack files below a directory, the directories they are in before them; the archive is at `path`."""
    with path.open("wb") as file:
        sink = _Sink(file)
        for block in _tar(samples, directory):
            sink.write(block)
        content = sink.finish()
    return Packed(path=path, size=path.stat().st_size, content=content)


def _tar(samples: Sequence[Sample], directory: str) -> Iterator[bytes]:
    seen: set[Path] = set()
    for sample in sorted(samples, key=lambda sample: sample.name):
        name = Path(directory) / sample.name
        for above in reversed(name.parents[:-1]):
            if above not in seen:
                seen.add(above)
                yield _header(above, 0o755, tarfile.DIRTYPE)
        yield _header(name, sample.mode, size=sample.size)
        yield sample.content()
        yield bytes(-sample.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)  # and no more: tarfile itself adds zeros that oras leaves out of the digest


def _header(name: Path, mode: int, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    member = tarfile.TarInfo(str(name))
    member.type, member.mode, member.size = kind, mode, size
    member.mtime = 1_700_000_000
    return member.tobuf(tarfile.PAX_FORMAT)


class _Sink:
    """Hashes, compresses and writes."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self._hasher = hashlib.sha256()
        self._compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)

    def write(self, block: bytes) -> None:
        """Take a block of the tar."""
        self._hasher.update(block)
        self._file.write(self._compressor.compress(block))

    def finish(self) -> str:
        """Write what is left, and return the digest of the tar."""
        self._file.write(self._compressor.flush())
        return f"sha256:{self._hasher.hexdigest()}"
