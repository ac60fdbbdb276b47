"""Archives: what a media type says of one, what it is called where it stays packed, and the digest of its content.

Nothing here looks at bytes.
"""

from typing import Any

from csi_oras.errors import CsiOrasError, HostileContentError
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Compression

_ENDINGS = {
    ".tar": Compression.NONE,
    ".tar+gzip": Compression.GZIP,
    ".tar.gzip": Compression.GZIP,  # Docker's spelling
    ".tar+zstd": Compression.ZSTD,
    ".tar.zstd": Compression.ZSTD,
}
_SUFFIXES = {
    Compression.NONE: (".tar",),
    Compression.GZIP: (".tar.gz", ".tgz"),
    Compression.ZSTD: (".tar.zst", ".tzst"),
}


def compression(media_type: str) -> Compression | None:
    """Return how the tar of a media type is compressed, or None where the type names no tar."""
    return next((found for ending, found in _ENDINGS.items() if media_type.endswith(ending)), None)


def packed(text: str, how: Compression) -> str:
    """Return the file name of an archive that is not unpacked: with a suffix that says what it is."""
    suffixes = _SUFFIXES[how]
    return text if text.endswith(suffixes) else text + suffixes[0]


def content_digest(text: str, subject: str) -> Digest:
    """Parse the digest that a tar has before its compression.

    Raises:
        HostileContentError: it is none; to skip the check for that would be no check.
    """
    try:
        return Digest.parse(text)
    except CsiOrasError as error:
        raise HostileContentError(subject, f"the digest of its content: {error.cause}", error.remedy) from None


def content_digests(document: dict[str, Any], key: str, subject: str) -> list[Digest]:
    """Parse a list of such digests out of a config; absent is empty.

    Raises:
        HostileContentError: it is no list of digests.
    """
    found = document.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise HostileContentError(subject, f'"{key}" is not a list of digests', "push the artifact again")
    return [content_digest(item, subject) for item in found]
