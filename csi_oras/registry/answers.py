"""What registries answer: a manifest, the bytes of a blob, and the checks of what they say of them."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from csi_oras.errors import (
    BadResponseError,
    DigestMismatchError,
    RegistryUnavailableError,
    SizeMismatchError,
    UnacceptableError,
    printable,
)
from csi_oras.oci import document as json
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.registry.pace import Peer
from csi_oras.registry.transport import Response


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedManifest:
    """The bytes of a manifest, their own digest, and the media type that the registry gave."""

    content: bytes
    digest: Digest
    media_type: str

    @property
    def descriptor(self) -> Descriptor:
        """Describe the bytes themselves."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))


class BlobStream:
    """Bytes of a blob, of a span of it as far as the response goes; use it in a with statement."""

    def __init__(self, response: Response, span: tuple[int, int], *, partial: bool, broken: Callable[[], None]) -> None:
        """Call `broken` when the response ends before its span does."""
        self._response = response
        self.start, end = span
        self._left = end - self.start
        response.expect(self._left)
        self.partial = partial
        self._broken = broken

    @property
    def peer(self) -> Peer:
        """Return who sends it."""
        return self._response.peer

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` as far as the stream goes and return the count; 0 is the end.

        Raises:
            RegistryUnavailableError: the connection broke or stalled.
        """
        try:
            count = self._response.readinto(buffer)
        except RegistryUnavailableError:
            self._broken()
            raise
        self._left -= count
        if not count and self._left > 0 and len(buffer):
            self._broken()
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()


def refuse_encoded(response: Response, subject: str) -> None:
    """Let an answer pass that is what its digest is of.

    Raises:
        BadResponseError: it is encoded.
    """
    if response.header("Content-Encoding").lower() not in ("", "identity"):
        raise BadResponseError(subject, "comes encoded, though that was not asked for", "check that it is a registry")


def refuse_other_than_json(content: bytes, subject: str, speaker: str) -> None:
    """Let the manifest of a mirror pass that is a JSON object; what else a tag may be there is the next host's to say.

    Raises:
        BadResponseError: it is none.
    """
    try:
        json.parse_object(content, subject)
    except UnacceptableError as error:
        raise BadResponseError(subject, f"{speaker} sent what {error.cause}", "check the mirror") from None


def digest_like(expected: Digest, content: bytes) -> Digest:
    """Return the digest of `content` by the algorithm of another."""
    hasher = expected.hasher()
    hasher.update(content)
    return Digest(expected.algorithm, hasher.hexdigest())


def check_digest(answered: str, digest: Digest, subject: str) -> None:
    """Let a Docker-Content-Digest pass that is what was sent, or none; registries may name another algorithm's.

    Raises:
        DigestMismatchError: it is that of something else.
    """
    if answered.partition(":")[0] == digest.algorithm and answered != str(digest):
        cause = f"the registry says that it has taken {printable(answered, 80)} instead of {digest}"
        raise DigestMismatchError(subject, cause, "report it")


def check_length(length: str, size: int, subject: str) -> None:
    """Let a Content-Length pass that is the size of the blob, or none.

    Raises:
        SizeMismatchError: it is another.
    """
    if length and length != str(size):
        cause = f"has {printable(length, 20)} bytes instead of {size}"
        raise SizeMismatchError(subject, cause, "push it again, or report it")


def check_range(content_range: str, start: int, last: int, size: int, subject: str) -> None:
    """Let a Content-Range pass that is the span which was asked for.

    Raises:
        SizeMismatchError: the blob has another size.
        BadResponseError: it is another span.
    """
    total = content_range.rpartition("/")[2]
    if total.isdigit() and total != str(size):
        raise SizeMismatchError(
            subject, f"has {printable(total, 20)} bytes instead of {size}", "push it again, or report it"
        )
    if content_range.replace(" ", "") not in (f"bytes{start}-{last}/{size}", f"bytes{start}-{last}/*"):
        raise BadResponseError(
            subject,
            f'asked for bytes {start}-{last} of {size}, the registry sends "{printable(content_range, 60)}"',
        )
