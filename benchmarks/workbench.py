"""The workbench: one registry with artifacts that are pushed once, and a fresh place for every run.

Everything lies below one directory, which goes with the workbench.
"""

import hashlib
import http.client
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from benchmarks.archives import Packed, pack
from benchmarks.content import Sample, samples
from benchmarks.link import Conditions, Link
from benchmarks.scale import Scale
from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher, manifest

_BLOCK_BYTES = 4 << 20
_REPOSITORY = "bench"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_PACKED_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_Shared = TypeVar("_Shared")

_LAYER_SHARES = (0.4, 0.3, 0.15, 0.1, 0.05)
"""An image's layers: a large one at the bottom, a small one on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact in the registry: reference, digests and bytes of its blobs, files, and bytes that archives hold."""

    reference: str
    digests: tuple[str, ...]
    size: int
    files: int
    unpacked: int = 0

    @property
    def kept(self) -> int:
        """What whoever pulls and unpacks it has, if he keeps the archives."""
        return self.size + self.unpacked

    def through(self, link: Link) -> "Artifact":
        """Return it as it is called at the near end of a link."""
        return replace(self, reference=f"{link.address}/{self.reference.partition('/')[2]}")


class Workbench:
    """A registry, what is in it, and room to work."""

    def __init__(self, directory: Path, registry: Distribution, scale: Scale, stack: ExitStack) -> None:
        """Work below `directory`; what `stack` has ends before the workbench does."""
        self.directory = directory
        self._stack = stack
        self._shared: dict[Any, Any] = {}
        self.registry = registry
        self.scale = scale
        self._pusher = Pusher(registry.address)
        self._pusher.blob(_REPOSITORY, b"{}")
        self._large: list[Layer] = []
        self._files: dict[Sample, Layer] = {}
        self._packed: dict[tuple[str, tuple[Sample, ...]], tuple[Layer, str]] = {}

    def link(self, *, resets: bool = False) -> Link:
        """Return a link to the registry, to be used in a with statement."""
        every = self.scale.reset_every if resets else 0
        return Link(self.registry.address, Conditions(rate=self.scale.link_rate, reset_every=every))

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Lend an empty directory when everything written before is on disk; it goes afterwards."""
        os.sync()
        place = Path(tempfile.mkdtemp(prefix="r-", dir=self.directory))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def shared(self, make: Callable[[Path], AbstractContextManager[_Shared]]) -> _Shared:
        """Return what `make` makes in a directory, made for the first row that wants it; it goes with the workbench."""
        if make not in self._shared:
            place = Path(tempfile.mkdtemp(prefix="s-", dir=self.directory))
            self._shared[make] = self._stack.enter_context(make(place))
        made: _Shared = self._shared[make]
        return made

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

    def samples(self) -> list[Sample]:
        """Return the files of the image that is unpacked."""
        return samples(self.scale.image_files, self.scale.image_bytes)

    def image(self, tag: str, layers: Sequence[Sequence[Sample]]) -> Artifact:
        """Return a container image; images share layers."""
        packed = [self._pack(layer) for layer in layers]
        rootfs = {"type": "layers", "diff_ids": [content for _, content in packed]}
        document = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
        config = Layer(content=json.dumps(document).encode(), media_type=_CONFIG_TYPE)
        self._pusher.blob(_REPOSITORY, config.content)
        return self._artifact(tag, [layer for layer, _ in packed], config, packed=layers)

    def directory_artifact(self, tag: str, files: Sequence[Sample]) -> Artifact:
        """Return what `oras push` makes of a directory."""
        layer, _ = self._pack(files, directory="files")
        return self._artifact(tag, [layer], packed=[files])

    def files_artifact(self, tag: str, files: Sequence[Sample]) -> Artifact:
        """Return an artifact of plain files, each a blob; artifacts share them."""
        return self._artifact(tag, [self._file(sample) for sample in files])

    def _file(self, sample: Sample) -> Layer:
        if sample not in self._files:
            content = sample.content()
            claims = {"digest": self._pusher.blob(_REPOSITORY, content), "size": len(content)}
            self._files[sample] = Layer(content=b"", title=sample.name, claims=claims)
        return self._files[sample]

    def _artifact(
        self, tag: str, layers: list[Layer], config: Layer | None = None, packed: Sequence[Sequence[Sample]] = ()
    ) -> Artifact:
        descriptors = [layer.descriptor() for layer in layers]
        self._pusher.manifest(_REPOSITORY, tag, manifest(layers, config))
        return Artifact(
            reference=f"{self.registry.address}/{_REPOSITORY}:{tag}",
            digests=tuple(descriptor["digest"] for descriptor in descriptors),
            size=sum(descriptor["size"] for descriptor in descriptors),
            files=sum(map(len, packed)) or len(layers),
            unpacked=sum(sample.size for files in packed for sample in files),
        )

    def _pack(self, files: Sequence[Sample], directory: str = "") -> tuple[Layer, str]:
        """Upload files as an archive, once, and return the layer with the digest of its tar."""
        key = directory, tuple(files)
        if key not in self._packed:
            packed = pack(files, self.directory / "archive", directory)
            digest = self._send(packed.blocks(), packed.size)
            packed.path.unlink()
            self._packed[key] = _packed_layer(packed, digest, directory), packed.content
        return self._packed[key]

    def _upload(self, number: int, size: int, title: str) -> Layer:
        digest = self._send(_content(number, size), size)
        return Layer(content=b"", title=title, claims={"digest": digest, "size": size})

    def _send(self, blocks: Iterable[bytes], size: int) -> str:
        """Upload a blob that is made while it is sent, so that none is ever in memory; return its digest."""
        hasher = hashlib.sha256()
        connection = http.client.HTTPConnection(self.registry.address, timeout=600)
        try:
            place = _ask(connection, "POST", f"/v2/{_REPOSITORY}/blobs/uploads/", {"Content-Length": "0"})
            headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            connection.request("PATCH", place, body=_hashed(blocks, hasher), headers=headers)
            place = _location(connection)
            joint = "&" if "?" in place else "?"
            digest = f"sha256:{hasher.hexdigest()}"
            _ask(connection, "PUT", f"{place}{joint}digest={digest}", {"Content-Length": "0"})
        finally:
            connection.close()
        return digest


def _packed_layer(packed: Packed, digest: str, directory: str) -> Layer:
    """Return a layer of an image, or with a directory what ORAS takes for one."""
    claims = {"digest": digest, "size": packed.size}
    annotations = {"io.deis.oras.content.digest": packed.content, "io.deis.oras.content.unpack": "true"}
    return Layer(
        content=b"",
        title=directory or None,
        media_type=_PACKED_TYPE,
        annotations=annotations if directory else {},
        claims=claims,
    )


def in_layers(files: Sequence[Sample]) -> list[list[Sample]]:
    """Share files of every size out among the layers of an image."""
    bounds = [round(sum(_LAYER_SHARES[:number]) * 100) for number in range(len(_LAYER_SHARES) + 1)]
    places = {sample: sample.number * 37 % 100 for sample in files}  # 37 and 100 have no factor in common
    return [[sample for sample in files if low <= places[sample] < high] for low, high in itertools.pairwise(bounds)]


def _content(number: int, size: int) -> Iterator[bytes]:
    """Yield blocks of noise, each unlike all others."""
    block = bytearray(random.Random(number).randbytes(_BLOCK_BYTES))  # noqa: S311 (noise, the same each time)
    for position in range(0, size, _BLOCK_BYTES):
        block[:16] = number.to_bytes(8) + position.to_bytes(8)
        yield bytes(block[: size - position])


def _hashed(blocks: Iterable[bytes], hasher: "hashlib._Hash") -> Iterator[bytes]:
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
    _spread(directory)
    try:
        with Distribution(directory / "registry") as registry, ExitStack() as stack:
            yield Workbench(directory, registry, scale, stack)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _spread(directory: Path) -> None:
    """Have ext4 put each new directory in another place of the disk; other file systems need nothing.

    It passes over inodes that were freed within minutes, one by one for each file that is made. So whoever came after
    20,000 files of another run were removed would pay ten times as much for each of his own.
    """
    if shutil.which("chattr"):
        subprocess.run(["chattr", "+T", str(directory)], stderr=subprocess.DEVNULL, check=False)
