"""The file path annotation: ModelPack's, which Docker Model Runner took over, under its new and its old name."""

from csi_oras.artifact.kind import Artifact
from csi_oras.errors import HostileContentError
from csi_oras.oci.name import Name

_PREFIXES = ("org.cncf.model.", "org.cnai.model.")
"""The second is what the specification used before it moved to the CNCF."""


def annotation(artifact: Artifact, number: int, key: str) -> str:
    """Return a layer's annotation of the model specification, `key` without its prefix; empty where there is none.

    Raises:
        HostileContentError: it is there under both names and they differ, so that two readers would see two things.
    """
    annotations = artifact.manifest.layers[number].annotations
    found = {annotations[prefix + key] for prefix in _PREFIXES if annotations.get(prefix + key)}
    if len(found) > 1:
        both = " and ".join(prefix + key for prefix in _PREFIXES)
        raise HostileContentError(
            artifact.subject(number), f"{both} differ", "push the artifact again with one of them"
        )
    return found.pop() if found else ""


def path_of(artifact: Artifact, number: int) -> Name | None:
    """Return the file path of a layer, None where it has none.

    Raises:
        HostileContentError: it is no safe name, or two that differ.
    """
    text = annotation(artifact, number, "filepath")
    return artifact.name(text, number, "filepath") if text else None
