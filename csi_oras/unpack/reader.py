"""Reading archives: opened, decompressed, hashed and taken apart, none of it beyond what node policy allows."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from csi_oras.errors import DigestMismatchError, HostileContentError, LimitExceededError, printable
from csi_oras.oci.digest import Digest, Hasher
from csi_oras.oci.plan import PlanArchive
from csi_oras.unpack.ahead import ahead
from csi_oras.unpack.decompress import OutputLimits, decompressed
from csi_oras.unpack.tar import Member, members

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """Members and bytes of all archives together (0 bytes: no limit), and how many times its packed size one may be."""

    members: int
    size: int
    ratio: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An archive of a plan, what opens its blob, and what an error calls it: the artifact and the layer."""

    archive: PlanArchive
    open_blob: Callable[[], BinaryIO]
    subject: str


class Reader:
    """Reads the archives of one artifact, in the order in which they are given, and counts what they hold."""

    def __init__(self, limits: UnpackLimits) -> None:
        self.kept = 0
        """Bytes of the files that were kept so far, as whoever keeps them says."""
        self._limits = limits
        self._members = 0
        self._packed: set[Digest] = set()
        self._packed_size = 0
        self._unpacked = 0

    def read(
        self, source: Source, implied: Callable[[], int] = lambda: 0
    ) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        """Yield the members of an archive; `implied` tells how many directories their names alone have made so far.

        Raises:
            HostileContentError, UnsupportedContentError: it is no archive, or has members that no honest tool makes.
            DigestMismatchError: it is another archive than the artifact says.
            LimitExceededError: it is larger, unpacked, than node policy allows.
        """
        archive, subject = source.archive, source.subject
        hasher = archive.content.hasher() if archive.content else None
        packed = None if hasher else archive.blob.digest.hasher()  # what was fetched long ago may have rotted since
        with source.open_blob() as opened:
            blob: BinaryIO = io.BufferedReader(_Hashed(opened, packed), _PIECE_BYTES) if packed else opened
            chunks = self._chunks(archive, blob, subject)
            with closing(ahead(_hashed(chunks, hasher) if hasher else chunks)) as prepared:
                for item in members(prepared, subject):
                    self._members += 1
                    self._check_count(implied(), subject)
                    yield item
            while packed and blob.read(_PIECE_BYTES):
                pass
        self._check_count(implied(), subject)
        self._members += implied()
        if archive.content and hasher:
            _check_digest(archive.content, hasher, subject)
        elif packed:
            _check_digest(archive.blob.digest, packed, subject)

    def _chunks(self, archive: PlanArchive, blob: BinaryIO, subject: str) -> Iterator[bytes]:
        room = max(self._limits.size - self.kept, 1) if self._limits.size else 0
        limits = OutputLimits(size=room, ratio=self._limits.ratio, before=self._unpacked)
        if archive.blob.digest not in self._packed:  # one blob in many layers is no more to unpack from
            self._packed.add(archive.blob.digest)
            self._packed_size += archive.blob.size
        for chunk in decompressed(blob, archive.compression, self._packed_size, limits, subject):
            self._unpacked += len(chunk)
            yield chunk

    def _check_count(self, implied: int, subject: str) -> None:
        if self._members + implied > self._limits.members:
            raise LimitExceededError(
                subject,
                f"has more than the {self._limits.members} files and directories that node policy allows",
                "raise limits.files, or mount less of it",
            )


class _Hashed(io.RawIOBase):
    """A blob that is hashed as it is read."""

    def __init__(self, blob: BinaryIO, hasher: Hasher) -> None:
        self._blob = blob
        self._hasher = hasher

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        content = self._blob.read(len(view))
        view[: len(content)] = content
        self._hasher.update(content)
        return len(content)


def _hashed(chunks: Iterator[bytes], hasher: Hasher) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _check_digest(expected: Digest, hasher: Hasher, subject: str) -> None:
    if hasher.hexdigest() != expected.encoded:
        raise DigestMismatchError(
            subject,
            f"is an archive with digest {expected.algorithm}:{hasher.hexdigest()}, not {expected}",
            "push it again, or report it",
        )


def hostile(subject: str, member: Member, cause: str) -> HostileContentError:
    """Return what to raise of a member that nobody may unpack."""
    return HostileContentError(
        subject,
        f'member "{printable(member.name, 80)}" {cause}',
        "leave it out with exclude where that is possible, or push the artifact again",
    )
