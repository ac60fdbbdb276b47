"""The media types that decide how a document is read."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"
"""Beginning of both its types, `json` and `prettyjws`."""

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST)
"""What a manifest request accepts, in order of preference."""

EMPTY = "application/vnd.oci.empty.v1+json"
"""A descriptor of this type stands for nothing (image-spec, manifest.md, Guidance for an Empty Descriptor)."""

LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
"""What ORAS has always given single files that have no type of their own, tar or not."""

LAYER_TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
"""A layer of an image, and what ORAS and oras-py give a directory that they pack."""

IMAGE_CONFIGS = frozenset({
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
})  # fmt: skip
"""Of images, of Ollama's models, and of what old ORAS clients pushed."""

UNKNOWN_ARTIFACT = "application/vnd.unknown.artifact.v1"

TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
CONTENT_DIGEST = "io.deis.oras.content.digest"
"""The digest of a packed directory before its compression."""
MODE = "land.oras.csi.mode"
"""The mode of a file that is a layer of its own, in octal; of ours, and only its executable bits count."""
REF_NAME = "org.opencontainers.image.ref.name"
"""The tag of an entry in the index of a layout."""
CREATED = "org.opencontainers.image.created"
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"
POD_NAME = "land.oras.csi.pod.name"
POD_NAMESPACE = "land.oras.csi.pod.namespace"
"""Of a manifest: the pod whose volume it was."""
CHUNK_INDEX = "application/vnd.land.oras.csi.chunk-index.v1+json"
"""A chunk index, and the type of the artifact that refers to what it is of."""
CHUNK_INDEX_DIGEST = "land.oras.csi.chunk-index"
"""Of a manifest: the digest of its chunk index, a blob of the same repository."""
ATTESTATION = "vnd.docker.reference.type"
"""Marks an entry of an index that describes another one and is never to be run or mounted."""
