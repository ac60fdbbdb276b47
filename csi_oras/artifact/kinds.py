"""All kinds, in the order in which they are asked whether an artifact is theirs; generic takes what is left."""

from csi_oras.artifact import (
    docker_model,
    flux,
    generic,
    helm,
    image,
    kitops,
    modelpack,
    ollama,
    sif,
    wasm,
)
from csi_oras.artifact.kind import Kind
from csi_oras.oci.manifest import Manifest

KINDS: tuple[Kind, ...] = (
    docker_model.KIND,  # before ModelPack, whose layer types it may use
    kitops.KIND,
    modelpack.KIND,
    ollama.KIND,  # before images, whose config type it has
    helm.KIND,
    sif.KIND,
    flux.KIND,
    image.KIND,
    wasm.KIND,
    generic.KIND,
)


def kind_of(manifest: Manifest) -> Kind:
    """Return the kind of an artifact."""
    return next(kind for kind in KINDS if kind.matches(manifest))
