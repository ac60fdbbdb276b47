"""Artifacts for lazy volumes: large files of which hardly anything is on disk, each with a chunk index bound to it.

A file is made of zeros with a mark at the begin of each MiB, so that its digest is right, each of its chunks is
another, and whoever reads it can tell. It is put where the registry keeps its blobs, not sent there.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.workbench import Artifact, Workbench
from csi_oras.oci import media_types
from csi_oras.oci.chunk_index import BlobIndex, ChunkHasher, ChunkIndex
from csi_oras.oci.digest import Digest
from tests.support.artifacts import Layer, Pusher, manifest

MIB = 1 << 20
_MARK_BYTES = 16
_REPOSITORY = "lazy"


def name(number: int) -> str:
    """Return what the file with a number is called in a volume."""
    return f"file-{number:03}.bin"


def sparse(bench: Workbench, tag: str, sizes: Sequence[int]) -> Artifact:
    """Return an artifact of files of these sizes, none of which is like any of another tag."""
    layers, chunks = [], []
    for number, size in enumerate(sizes):
        digest, chunks_of_blob = _put(bench, f"{tag} {number}", size)
        layers.append(Layer(content=b"", title=name(number), claims={"digest": str(digest), "size": size}))
        chunks.append(chunks_of_blob)
    pusher, index = Pusher(bench.registry.address), ChunkIndex.of(chunks)
    pusher.blob(_REPOSITORY, b"{}")
    annotations = {media_types.CHUNK_INDEX_DIGEST: pusher.blob(_REPOSITORY, index.content)} if index else {}
    pusher.manifest(_REPOSITORY, tag, manifest(layers, annotations=annotations))
    return Artifact(
        reference=f"{bench.registry.address}/{_REPOSITORY}:{tag}",
        digests=tuple(layer.claims["digest"] for layer in layers),
        size=sum(sizes),
        files=len(layers),
    )


def check(content: bytes | memoryview, place: int) -> None:
    """Hold what was read from `place` on, the begin of a MiB, against what is there.

    Raises:
        RuntimeError: it is something else.
    """
    if bytes(content[8:_MARK_BYTES]) != (place // MIB).to_bytes(8):
        raise RuntimeError(f"wrong bytes at {place}")


def _put(bench: Workbench, seed: str, size: int) -> tuple[Digest, BlobIndex | None]:
    root = bench.registry.directory / "data/docker/registry/v2"
    made = root / "made"
    made.parent.mkdir(parents=True, exist_ok=True)
    digest, index = _make(made, seed, size)
    blob = root / "blobs/sha256" / digest.encoded[:2] / digest.encoded / "data"
    link = root / "repositories" / _REPOSITORY / "_layers/sha256" / digest.encoded / "link"
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    made.rename(blob)
    link.write_text(str(digest))
    return digest, index


def _make(path: Path, seed: str, size: int) -> tuple[Digest, BlobIndex | None]:
    whole, chunks, block = hashlib.sha256(), ChunkHasher(size), bytearray(MIB)
    with path.open("wb", buffering=0) as file:
        file.truncate(size)
        for place in range(0, size, MIB):
            block[:_MARK_BYTES] = hashlib.sha256(seed.encode()).digest()[:8] + (place // MIB).to_bytes(8)
            piece = memoryview(block)[: size - place]
            os.pwrite(file.fileno(), piece[:_MARK_BYTES], place)
            whole.update(piece)
            chunks.update(piece)
    digest = Digest("sha256", whole.hexdigest())
    return digest, chunks.index(digest)
