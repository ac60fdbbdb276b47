"""The generic kind: each layer is a file under its title, an untitled one under its digest.

The file name in the title is a convention of ORAS, not of the image specification; `sha256-<hex>` is podman's
and Ollama's spelling for what has none.
"""

from collections.abc import Iterator

from csi_oras.errors import HostileContentError, printable
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import LeftOut, PlanEntry


def entries(manifest: Manifest, subject: str) -> Iterator[PlanEntry | LeftOut]:
    """Yield a file for each layer that is one.

    Raises:
        HostileContentError: a title that is no safe name.
    """
    for number, layer in enumerate(manifest.layers):
        if layer.media_type == media_types.EMPTY:
            yield LeftOut(layer=number, reason="is the empty descriptor")
        else:
            name, rule = _name(layer, f"{subject}, layer {number} ({layer.digest.short})")
            yield PlanEntry(name=name, blob=layer, layer=number, rule=rule)


def _name(layer: Descriptor, subject: str) -> tuple[Name, str]:
    title = layer.annotations.get(media_types.TITLE)
    if not title:
        return Name((f"{layer.digest.algorithm}-{layer.digest.encoded}",)), "digest"
    try:
        return Name.parse(title), "title"
    except UnsafeNameError as error:
        raise HostileContentError(
            subject,
            f'title "{printable(title, 80)}" {error}',
            "push the artifact again under a plain relative name",
        ) from None
