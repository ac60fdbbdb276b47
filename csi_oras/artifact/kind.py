"""What a kind of artifact is: how it is recognised, and what files its layers are.

A kind is one module with one `KIND`, chosen by media types and never by sniffing. It does no I/O.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from csi_oras.errors import BadResponseError, HostileContentError, printable
from csi_oras.oci import document as json
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import LeftOut, PlanArchive, PlanEntry
from csi_oras.oci.reference import Reference

PlanItem = PlanEntry | PlanArchive | LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact as far as its files' names can depend on it; `config` is empty where the kind reads none.

    `root` is what the reference resolves to: the manifest, or the index that leads to it. `digest` and `size` are
    the manifest's own.
    """

    reference: Reference
    root: Digest
    digest: Digest
    size: int
    manifest: Manifest
    config: bytes = b""

    def subject(self, layer: int | None) -> str:
        """Name one layer, or with None the artifact itself, for an error message."""
        if layer is None:
            return str(self.reference)
        return f"{self.reference}, layer {layer} ({self.manifest.layers[layer].digest.short})"

    def name(self, text: str, layer: int | None, what: str, *, portable: bool = True) -> Name:
        """Check a name that came from outside; `what` says from where, as in `title`.

        Raises:
            HostileContentError: it is no safe name.
        """
        try:
            return Name.parse(text, portable=portable)
        except UnsafeNameError as error:
            raise HostileContentError(
                self.subject(layer),
                f'{what} "{printable(text, 80)}" {error}',
                "push the artifact again under a plain relative name",
            ) from None

    def config_document(self) -> dict[str, Any]:
        """Parse the config, of a kind that reads it.

        Raises:
            HostileContentError: it is no JSON object.
        """
        try:
            return json.parse_object(self.config, self.config_subject)
        except BadResponseError as error:  # what has the right digest is no mistake of the registry's
            raise HostileContentError(error.subject, error.cause, "push the artifact again") from None

    @property
    def config_subject(self) -> str:
        """Name the config for an error message."""
        return f"{self.reference}, config ({self.manifest.config.digest.short})"

    @property
    def basename(self) -> str:
        """The last component of the repository, which tools call files after."""
        return self.reference.repository.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind; `items` yields what each layer becomes, in the order of the layers.

    Its second argument is False where the volume wants archives as they are. `goes_by_reference` says that names depend
    on the repository or the tag, and not on the artifact alone.
    """

    name: str
    matches: Callable[[Manifest], bool]
    items: Callable[[Artifact, bool], Iterator[PlanItem]]
    reads_config: bool = False
    goes_by_reference: bool = False


def by_digest(blob: Descriptor) -> Name:
    """Return the name of what has none: podman's and Ollama's spelling of its digest."""
    return Name((f"{blob.digest.algorithm}-{blob.digest.encoded}",))
