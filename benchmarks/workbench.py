"""The workbench: one registry with artifacts that are pushed once, and a fresh place for every run.

Everything lies below one directory, which goes with the workbench.
"""

import hashlib
import http.client
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher, manifest

_BLOCK_BYTES = 4 << 20
_REPOSITORY = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much work each row is; sizes in bytes."""

    blob_bytes: int = 2 << 30
    blobs: int = 4
    files: int = 1000
    file_bytes: int = 64 << 10
    warm_calls: int = 500
    pods: int = 100
    herd_blobs: int = 4
    herd_blob_bytes: int = 256 << 20
    warm_up: bool = True


SMALL = Scale(
    blob_bytes=20 << 20,
    blobs=2,
    files=20,
    file_bytes=4 << 10,
    warm_calls=5,
    pods=5,
    herd_blobs=2,
    herd_blob_bytes=1 << 20,
    warm_up=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact in the registry: its reference, its blobs' digests, and their bytes in all."""

    reference: str
    digests: tuple[str, ...]
    size: int


class Workbench:
    """A registry, what is in it, and room to work."""

    def __init__(self, directory: Path, registry: Distribution, scale: Scale) -> None:
        self.directory = directory
        self.registry = registry
        self.scale = scale
        self._pusher = Pusher(registry.address)
        self._pusher.blob(_REPOSITORY, b"{}")
        self._large: list[Layer] = []

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Lend an empty directory when everything written before is on disk; it goes afterwards."""
        os.sync()
        place = Path(tempfile.mkdtemp(prefix="r-", dir=self.directory))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def large(self, count: int) -> Artifact:
        """Return an artifact of `count` large blobs; artifacts share them."""
        while len(self._large) < count:
            number = len(self._large)
            self._large.append(self._upload(number, self.scale.blob_bytes, f"large-{number}.bin"))
        return self._artifact(f"large-{count}", self._large[:count])

    def many(self) -> Artifact:
        """Return an artifact of many small files."""
        noise = random.Random(1)  # noqa: S311 (content that compresses badly, the same each time)
        layers = [
            Layer(content=noise.randbytes(self.scale.file_bytes), title=f"part-{number // 100}/file-{number:04}.bin")
            for number in range(self.scale.files)
        ]
        for layer in layers:
            self._pusher.blob(_REPOSITORY, layer.content)
        return self._artifact("many", layers)

    def herd(self) -> Artifact:
        """Return the artifact that a hundred pods want at once."""
        first = 1000  # other bytes than the large blobs, which may be smaller
        sizes = range(first, first + self.scale.herd_blobs)
        layers = [self._upload(number, self.scale.herd_blob_bytes, f"herd-{number}.bin") for number in sizes]
        return self._artifact("herd", layers)

    def _artifact(self, tag: str, layers: list[Layer]) -> Artifact:
        descriptors = [layer.descriptor() for layer in layers]
        self._pusher.manifest(_REPOSITORY, tag, manifest(layers))
        return Artifact(
            reference=f"{self.registry.address}/{_REPOSITORY}:{tag}",
            digests=tuple(descriptor["digest"] for descriptor in descriptors),
            size=sum(descriptor["size"] for descriptor in descriptors),
        )

    def _upload(self, number: int, size: int, title: str) -> Layer:
        """Upload a blob that is made while it is sent, so that none is ever in memory."""
        hasher = hashlib.sha256()
        connection = http.client.HTTPConnection(self.registry.address, timeout=600)
        try:
            place = _ask(connection, "POST", f"/v2/{_REPOSITORY}/blobs/uploads/", {"Content-Length": "0"})
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            connection.request("PATCH", place, body=_hashed(_content(number, size), hasher), headers=headers)
            place = _location(connection)
            joint = "&" if "?" in place else "?"
            digest = f"sha256:{hasher.hexdigest()}"
            _ask(connection, "PUT", f"{place}{joint}digest={digest}", {"Content-Length": "0"})
        finally:
            connection.close()
        return Layer(content=b"", title=title, claims={"digest": digest, "size": size})


def _content(number: int, size: int) -> Iterator[bytes]:
    """Yield blocks of noise, each unlike all others."""
    block = bytearray(random.Random(number).randbytes(_BLOCK_BYTES))  # noqa: S311 (noise, the same each time)
    for position in range(0, size, _BLOCK_BYTES):
        block[:16] = number.to_bytes(8) + position.to_bytes(8)
        yield bytes(block[: size - position])


def _hashed(blocks: Iterator[bytes], hasher: "hashlib._Hash") -> Iterator[bytes]:
    for block in blocks:
        hasher.update(block)
        yield block


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> str:
    connection.request(method, path, headers=headers)
    return _location(connection)


def _location(connection: http.client.HTTPConnection) -> str:
    response = connection.getresponse()
    answer = response.read()
    if response.status >= 300:
        raise RuntimeError(f"the registry refuses an upload: {response.status} {answer[:300]!r}")
    parts = urlsplit(response.headers["Location"])
    return parts.path + (f"?{parts.query}" if parts.query else "")


@contextmanager
def workbench(parent: Path, scale: Scale) -> Iterator[Workbench]:
    """Set up a workbench below `parent`, and take all of it away again."""
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="co-bench-", dir=parent))
    try:
        with Distribution(directory / "registry") as registry:
            yield Workbench(directory, registry, scale)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
