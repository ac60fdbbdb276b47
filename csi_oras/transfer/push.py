"""Pushes: files become an artifact, each a layer under its name, as `oras push` makes them."""

import hashlib
import io
import json
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.reference import Reference
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.retries import retried
from csi_oras.telemetry.progress import Counter, Progress

_PARALLEL = 4
_EMPTY_CONFIG = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file and the name that it will have in the artifact."""

    path: Path
    name: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedArtifact:
    """What a push made; bytes of all layers, and of those that had to be sent."""

    digest: Digest
    size: int
    sent: int


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
        directories.sort()
        for name in sorted(names):
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


def push(
    client: RepositoryClient,
    reference: Reference,
    files: Sequence[NamedFile],
    artifact_type: str,
    progress: Progress,
) -> PushedArtifact:
    """Push `files` as one artifact; the tag moves last, when everything it needs is there.

    Raises:
        InvalidRequestError: the reference has a digest.
        UnobtainableError: the registry does not take it.
    """
    if reference.digest or not reference.tag:
        raise InvalidRequestError(str(reference), "cannot be pushed to by digest", "name a tag")
    config = Descriptor.of(_EMPTY_CONFIG, media_types.EMPTY)
    with ThreadPoolExecutor(_PARALLEL, "push") as pool:
        layers = list(pool.map(_describe, files))
        counters = [Counter(layer.size) for layer in layers]
        for file, counter in zip(files, counters, strict=True):
            progress.join(file.name, counter, str(file.name))
        sent = sum(pool.map(lambda item: _send(client, *item), zip(files, layers, counters, strict=True)))
    if not client.has_blob(config.digest):
        client.upload(config, _EMPTY_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": artifact_type or media_types.UNKNOWN_ARTIFACT,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    content = json.dumps(manifest, separators=(",", ":")).encode()
    digest = client.put_manifest(reference.tag, content, media_types.OCI_MANIFEST)
    return PushedArtifact(digest=digest, size=sum(layer.size for layer in layers), sent=sent)


def _describe(file: NamedFile) -> Descriptor:
    with file.path.open("rb") as source:
        digest = Digest("sha256", hashlib.file_digest(source, "sha256").hexdigest())
        size = source.tell()
    annotations = {media_types.TITLE: str(file.name)}
    return Descriptor(media_type=media_types.LAYER_TAR, digest=digest, size=size, annotations=annotations)


def _send(client: RepositoryClient, file: NamedFile, layer: Descriptor, counter: Counter) -> int:
    if retried(lambda: client.has_blob(layer.digest)):
        counter.finish()
        return 0

    def upload() -> None:
        counter.resume(0)
        with _CountedFile(file.path, counter) as source:
            client.upload(layer, source)

    retried(upload)
    return layer.size


class _CountedFile(io.FileIO):
    """A file that counts what is read of it as sent."""

    def __init__(self, path: Path, counter: Counter) -> None:
        super().__init__(path)
        self._counter = counter

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes."""
        data = super().read(-1 if size is None else size) or b""
        self._counter.advance(len(data))
        return data
