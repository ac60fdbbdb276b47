"""Files that a person names: they become the layers that they would be, had a pod written them.

A path that is named is followed wherever it leads; below it nothing is, and what no artifact can carry is refused.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import Plan
from csi_oras.oci.selection import Selection
from csi_oras.pack import found
from csi_oras.pack.found import Change, Directory, File, Origin
from csi_oras.pack.layers import LayerPlan, PackedDirectory, WholeFile, plan_layers
from csi_oras.pack.merge import described, merge
from csi_oras.pack.walk import SourceFile, as_file, named, open_file
from csi_oras.transfer.making import MOST_FILES, LayerMaker, make_all
from csi_oras.transfer.push import PushedLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A file or directory of this machine, and where it is in the artifact."""

    path: Path
    at: found.Path
    subject: str

    @contextmanager
    def opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequestError(self.subject, f"cannot be opened ({error.strerror})") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def changes(self) -> Iterator[Change]:
        """Yield what is there, and the directories above it first."""
        for depth in range(1, len(self.at)):
            yield self.at[:depth], Directory(Origin.UPPER)
        with self.opened() as root:
            status = os.fstat(root)
            if stat.S_ISDIR(status.st_mode):
                yield from named(root, self.at, self.subject)
            elif stat.S_ISREG(status.st_mode):
                yield self.at, as_file(Origin.UPPER, status)
            else:
                raise InvalidRequestError(self.subject, "is neither a file nor a directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFiles:
    """The layers that named files become, and the places where the files are."""

    layers: tuple[LayerPlan, ...]
    places: dict[found.Path, _Place]

    def open(self, name: Name, file: File) -> SourceFile:
        """Open one of them.

        Raises:
            ContentChangedError: something else is there now.
            InvalidRequestError, StoreBrokenError: it cannot be read.
        """
        place = self.places[name.components]
        with place.opened() as root:
            return open_file(root, name.components[len(place.at) :], file, place.subject)


def find_files(paths: Sequence[Path]) -> NamedFiles:
    """Find what `paths` name, directories with all that is in them, under relative names.

    A relative path is its own name; of an absolute one, and of one with `..`, the last part is.

    Raises:
        InvalidRequestError: something is no file or directory, cannot be carried, or has the name of something else.
        UnobtainableError: something cannot be read, or changes.
    """
    places: dict[found.Path, _Place] = {}
    merged = merge((), _changes([_place(path) for path in paths], places), Selection())
    if merged.uncarriable:
        raise InvalidRequestError("what is named", described(merged.uncarriable), "leave it out")
    return NamedFiles(layers=tuple(plan_layers(merged, Plan(), MOST_FILES)), places=places)


def layers_of(files: NamedFiles, directory: Path) -> list[PushedLayer]:
    """Return the layers that files are, each read once; what is packed goes to `directory`, and is needed for the push.

    Raises:
        UnobtainableError: a file changes, or cannot be read or packed.
    """
    maker = LayerMaker(open_file=files.open, directory=directory, subject="files")

    def make(number: int, layer: LayerPlan) -> PushedLayer:
        match layer:
            case WholeFile():
                return maker.file(layer)
            case PackedDirectory():
                return maker.packed(number, layer)
        raise RuntimeError("a layer is to be reused of no base")

    return make_all(make, files.layers, lambda _: None)


def _changes(named_places: Sequence[_Place], places: dict[found.Path, _Place]) -> Iterator[Change]:
    """Yield what is in all places, and note in `places` what is where but for directories, which may be in several."""
    directories: set[found.Path] = set()
    for place in named_places:
        for path, what in place.changes():
            is_directory = isinstance(what, Directory)
            if path in places or (path in directories and not is_directory):
                subject = f"{place.subject}, name {printable('/'.join(path), 200)}"
                raise InvalidRequestError(subject, "is named twice", "push one of the two")
            if is_directory:
                directories.add(path)
            else:
                places[path] = place
            yield path, what


def _place(path: Path) -> _Place:
    subject = f"path {printable(str(path), 200)}"
    is_plain = not path.is_absolute() and ".." not in path.parts
    name = "/".join(path.parts) if is_plain else path.name
    try:
        at = Name.parse(name).components if name or not is_plain else ()
    except UnsafeNameError as error:
        raise InvalidRequestError(subject, f"has a name that {error}", "rename it") from None
    return _Place(path=path.resolve(), at=at, subject=subject)
