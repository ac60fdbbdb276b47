"""Files that a person names: each is a layer under its name, as `oras push` makes them."""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.pack.layers import titled
from csi_oras.registry.sources import in_file
from csi_oras.transfer.hashing import hash_blob
from csi_oras.transfer.push import PushedLayer

_PARALLEL = 4
_EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file and the name that it will have in the artifact."""

    path: Path
    name: Name


def find_files(paths: Sequence[Path]) -> list[NamedFile]:
    """Return the regular files that `paths` name, directories with all that is in them, under relative names.

    A relative path is its own name; of an absolute one, and of one with `..`, the last part is.

    Raises:
        InvalidRequestError: something is no file or directory, or has no name that a volume could show.
    """
    found: dict[Name, NamedFile] = {}
    for path in paths:
        plain = not path.is_absolute() and ".." not in path.parts
        base = Path() if plain else path.parent
        for file in _walk(path):
            named = NamedFile(path=file, name=_name(file, base))
            if found.setdefault(named.name, named) is not named:
                raise InvalidRequestError(
                    f"file {printable(str(file), 200)}", "has the same name as another", "push them apart"
                )
    return sorted(found.values(), key=lambda file: file.name)


def _walk(path: Path) -> list[Path]:
    mode = path.stat().st_mode if path.exists() else 0
    if stat.S_ISREG(mode):
        return [path]
    if not stat.S_ISDIR(mode):
        raise InvalidRequestError(f"path {printable(str(path), 200)}", "is neither a file nor a directory")
    files = []
    for directory, directories, names in os.walk(path, followlinks=False):
        links = [name for name in directories if (Path(directory) / name).is_symlink()]
        directories.sort()
        for name in sorted([*names, *links]):
            file = Path(directory) / name
            if not stat.S_ISREG(file.lstat().st_mode):
                raise InvalidRequestError(f"path {printable(str(file), 200)}", "is no regular file", "leave it out")
            files.append(file)
    return files


def _name(file: Path, base: Path) -> Name:
    relative = file.relative_to(base).as_posix() if base != Path() else file.as_posix()
    try:
        return Name.parse(relative)
    except UnsafeNameError as error:
        raise InvalidRequestError(
            f"file {printable(str(file), 200)}", f"has a name that {error}", "rename it"
        ) from None


def layers_of(files: Sequence[NamedFile]) -> list[PushedLayer]:
    """Return the layers that files are; each is read once for its digest and those of its chunks."""
    with ThreadPoolExecutor(_PARALLEL, "hash") as pool:
        return list(pool.map(_layer, files))


def _layer(file: NamedFile) -> PushedLayer:
    with file.path.open("rb", buffering=0) as source:
        status = os.fstat(source.fileno())
        hashed = hash_blob(source, status.st_size)
    layer = Descriptor(
        media_type=media_types.LAYER_TAR,
        digest=hashed.digest,
        size=hashed.size,
        annotations=titled(file.name, is_executable=bool(status.st_mode & _EXECUTABLE)),
    )
    return PushedLayer(blob=layer, source=in_file(file.path), chunks=hashed.chunks)
