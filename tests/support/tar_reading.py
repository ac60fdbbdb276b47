"""Reading tars in tests: members with their contents, what is refused, and what Python's tarfile writes of members."""

import io
import re
import tarfile
from collections.abc import Iterator

import pytest

from csi_oras.errors import HostileContentError
from csi_oras.unpack.tar import Member, MemberKind, members

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SUBJECT = "reg.example/t/x:v1, layer 0 (0123456789ab)"
BLOCK = 512
KINDS = {
    tarfile.REGTYPE: MemberKind.FILE,
    tarfile.DIRTYPE: MemberKind.DIRECTORY,
    tarfile.SYMTYPE: MemberKind.SYMLINK,
    tarfile.LNKTYPE: MemberKind.HARDLINK,
}
FLAGS = {kind: flag for flag, kind in KINDS.items()}
Item = tuple[Member, bytes]


def pieces(archive: bytes, length: int = 1 << 20) -> Iterator[bytes]:
    """Yield an archive in pieces of a length."""
    return (archive[start : start + length] for start in range(0, len(archive), length))


def read(archive: bytes, length: int = 1 << 20) -> list[Item]:
    """Return the members of an archive with their contents."""
    return [(member, b"".join(content)) for member, content in members(pieces(archive, length), SUBJECT)]


def refusal(archive: bytes) -> str:
    """Return why an archive is refused; its message names what it is about, and is clean."""
    with pytest.raises(HostileContentError) as caught:
        read(archive)
    message = caught.value.message
    assert message.startswith(f"{SUBJECT}: ")
    assert not CONTROLS.search(message)
    assert caught.value.remedy
    return message.removeprefix(f"{SUBJECT}: ")


def file(name: str, content: bytes = b"", mode: int = 0o644) -> Item:
    """A file as a member."""
    return Member(name=name, kind=MemberKind.FILE, mode=mode, size=len(content)), content


def by_tarfile(items: list[Item], tar_format: int) -> bytes:
    """Return the archive that Python's own library makes of these."""
    return written(items, tar_format)[0]


def written(items: list[Item], tar_format: int) -> tuple[bytes, list[int]]:
    """Return tarfile's archive, and where each member begins and the last one ends."""
    buffer, starts = io.BytesIO(), [0]
    with tarfile.open(fileobj=buffer, mode="w:", format=tar_format) as archive:
        for member, content in items:
            info = tarfile.TarInfo(member.name.rstrip("/"))
            info.type, info.mode, info.size, info.linkname = FLAGS[member.kind], member.mode, member.size, member.target
            info.mtime = 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
            starts.append(archive.offset)
    return buffer.getvalue(), starts
