"""Chunk indexes that tests put where the driver looks for them."""

import json
from typing import Any

from csi_oras.oci.chunk_index import BlobIndex, ChunkHasher, ChunkIndex
from csi_oras.oci.digest import Digest
from tests.support.artifacts import EMPTY_TYPE, OCI_MANIFEST, Layer, manifest, sha256

INDEX_TYPE = "application/vnd.land.oras.csi.chunk-index.v1+json"
ANNOTATION = "land.oras.csi.chunk-index"


def blob_index(content: bytes) -> BlobIndex:
    """The index of a blob of several chunks."""
    hasher = ChunkHasher(len(content))
    hasher.update(content)
    found = hasher.index(Digest.of(content))
    assert found is not None
    return found


def chunk_index(*contents: bytes) -> bytes:
    """The document about some blobs."""
    index = ChunkIndex.of(map(blob_index, contents))
    assert index is not None
    return index.content


def lying(content: bytes) -> bytes:
    """A document about a blob that says something else of each of its chunks."""
    document = json.loads(chunk_index(content))
    document["blobs"][0]["chunks"] = json.loads(chunk_index(bytes(len(content))))["blobs"][0]["chunks"]
    return json.dumps(document).encode()


def referrer(index: bytes, subject: bytes, **members: Any) -> bytes:
    """A manifest that refers to another and has an index."""
    return manifest(
        [Layer(content=index, media_type=INDEX_TYPE)],
        Layer(content=b"{}", media_type=EMPTY_TYPE),
        artifactType=INDEX_TYPE,
        subject={"mediaType": OCI_MANIFEST, "digest": sha256(subject), "size": len(subject)},
        **members,
    )


def listed(*referrers: bytes, artifact_type: str = INDEX_TYPE) -> bytes:
    """The list that names referrers."""
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": sha256(content), "size": len(content), "artifactType": artifact_type}
        for content in referrers
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
