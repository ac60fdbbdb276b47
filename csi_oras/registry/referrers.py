"""Lists of referrers: what a registry says refers to a manifest (distribution-spec, Listing Referrers).

A list is a hint of what there may be, never evidence: whoever may push to a repository may write into it. So it
is bounded in entries, bytes and pages, and leads to no other host.
"""

import json
from typing import Any

from csi_oras.errors import BadResponseError
from csi_oras.oci import document as documents
from csi_oras.oci import manifest as manifests
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Index
from csi_oras.registry.transport import Response

MOST_PAGES, LARGEST_PAGE = 10, 4 << 20
_MOST_ENTRIES = 10_000
_OK = 200
_REFUSALS = frozenset({400, 404, 405, 406, 501})
"""How registries answer that do not know the interface."""


def are_not_served(response: Response) -> bool:
    """Say whether this answer means that the registry has no such interface.

    A page for people is one, too, for some that lack it answer every path.
    """
    media_type = response.header("Content-Type").partition(";")[0].strip().lower()
    return response.status in _REFUSALS or (response.status == _OK and media_type != media_types.OCI_INDEX)


def entries(content: bytes, subject: str) -> list[Descriptor]:
    """Read a list, or a page of it.

    Raises:
        UnacceptableError: it is no index, or has too many entries.
    """
    index = manifests.parse(content, media_types.OCI_INDEX, subject, most_layers=_MOST_ENTRIES)
    if not isinstance(index, Index):
        raise BadResponseError(subject, "is no list of referrers", "report it")
    return list(index.manifests)


def tag_of(digest: Digest) -> str:
    """Return the tag that holds the list where there is no interface (distribution-spec, Referrers Tag Schema)."""
    return f"{digest.algorithm[:32]}-{digest.encoded[:64]}"


def with_entry(content: bytes | None, entry: Descriptor, subject: str) -> bytes | None:
    """Return what a list (None: there is none yet) has to become to name `entry`, or None where it does already.

    What others have put there stays, whatever it is.

    Raises:
        UnacceptableError: it is no list.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}
    if content is not None:
        if entry.digest in {there.digest for there in entries(content, subject)}:
            return None
        document = documents.parse_object(content, subject)
    named = {**entry.to_json(), "artifactType": entry.artifact_type}
    changed = {**document, "manifests": [*document["manifests"], named]}
    return json.dumps(changed, separators=(",", ":")).encode()
