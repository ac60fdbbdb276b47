"""The tar reader: what tarfile and GNU tar write is read as they meant it, what no honest tool writes is refused."""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_oras.errors import HostileContentError, UnacceptableError
from csi_oras.unpack.header import MOST_BYTES
from csi_oras.unpack.tar import MOST_EXTENSION_BYTES, MOST_GLOBAL_HEADERS, Member, MemberKind, members
from tests.support.tars import Description, entry, header, pax, tar

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SUBJECT = "reg.example/t/x:v1, layer 0 (0123456789ab)"
BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KINDS = {
    tarfile.REGTYPE: MemberKind.FILE,
    tarfile.DIRTYPE: MemberKind.DIRECTORY,
    tarfile.SYMTYPE: MemberKind.SYMLINK,
    tarfile.LNKTYPE: MemberKind.HARDLINK,
}
FLAGS = {kind: flag for flag, kind in KINDS.items()}
Item = tuple[Member, bytes]


def pieces(archive: bytes, length: int = 1 << 20) -> Iterator[bytes]:
    return (archive[start : start + length] for start in range(0, len(archive), length))


def read(archive: bytes, length: int = 1 << 20) -> list[Item]:
    return [(member, b"".join(content)) for member, content in members(pieces(archive, length), SUBJECT)]


def refusal(archive: bytes, error: type[UnacceptableError] = HostileContentError) -> str:
    with pytest.raises(error) as caught:
        read(archive)
    message = caught.value.message
    assert message.startswith(f"{SUBJECT}: ")
    assert not CONTROLS.search(message)
    assert caught.value.remedy
    return message.removeprefix(f"{SUBJECT}: ")


def file(name: str, content: bytes = b"", mode: int = 0o644) -> Item:
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


PLAIN = [
    (Member(name="d/", kind=MemberKind.DIRECTORY, mode=0o755), b""),
    file("d/empty"),
    file("d/one", b"1", 0o4755),
    file("d/block", b"b" * BLOCK),
    file("d/more", os.urandom(3 * BLOCK + 1)),
    (Member(name="link", kind=MemberKind.SYMLINK, mode=0o777, target="d/one"), b""),
    (Member(name="same", kind=MemberKind.HARDLINK, mode=0o644, target="d/one"), b""),
    file("file with spaces", b"x"),
    file("p" * 99 + "/" + "n" * 99, b"prefix"),
]
UNICODE = [file("ünïcode/ðatei 🦀", b"u"), (Member(name="ł", kind=MemberKind.SYMLINK, mode=0o777, target="ü"), b"")]
LONG = [
    file("l" * 100, b"exactly the field"),
    file("ñ" * 300, b"long"),
    file("/".join(["deep" * 20] * 30), b"deep"),
    (Member(name="s" * 150, kind=MemberKind.SYMLINK, mode=0o777, target="t" * 200), b""),
    (Member(name="h", kind=MemberKind.HARDLINK, mode=0o644, target="ñ" * 300), b""),
    file("after", b"short again"),
]


@pytest.mark.parametrize(
    ("items", "tar_format"),
    [(PLAIN + UNICODE, "ustar"), (PLAIN + UNICODE + LONG, "gnu"), (PLAIN + UNICODE + LONG, "pax")],
    ids=["ustar", "gnu", "pax"],
)
@pytest.mark.parametrize("length", [1, 7, BLOCK, 1000, 1 << 20])
def test_members_of_tarfiles_archives_are_what_was_written(items: list[Item], tar_format: str, length: int) -> None:
    assert read(by_tarfile(items, FORMATS[tar_format]), length) == items


@pytest.mark.skipif(not shutil.which("tar"), reason="GNU tar is not installed")
@pytest.mark.parametrize("tar_format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_members_of_gnu_tars_archives_are_what_was_packed(tar_format: str, tmp_path: Path) -> None:
    directory = tmp_path / "packed"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "ünïcode").write_bytes(b"text" * 1000)
    (directory / "sub" / "again").hardlink_to(directory / "sub" / "ünïcode")
    (directory / "link").symlink_to("sub/again")
    if tar_format not in ("v7", "ustar"):
        (directory / ("n" * 200)).write_bytes(b"long")
        (directory / "long link").symlink_to("t" * 300)
    owner = "--owner=x:" + ("1000" if tar_format in ("v7", "ustar") else "3000000000")
    command = ["tar", f"--format={tar_format}", "--sort=name", owner, "-cf", "-", "."]
    archive = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, check=True).stdout

    found = {member.name: (member, content) for member, content in read(archive)}
    with tarfile.open(fileobj=io.BytesIO(archive)) as expected:
        infos = expected.getmembers()
    assert [member.name.rstrip("/") for member, _ in found.values()] == [info.name for info in infos]
    assert [member.kind for member, _ in found.values()] == [KINDS.get(info.type, MemberKind.FILE) for info in infos]
    assert [member.mode for member, _ in found.values()] == [info.mode for info in infos]
    assert [member.target for member, _ in found.values()] == [info.linkname for info in infos]
    assert found["./link"][0].target == "sub/again"
    assert found["./sub/again"][1] == b"text" * 1000
    assert found["./sub/ünïcode"][0].target == "./sub/again"
    assert ("./" + "n" * 200 in found) == (tar_format not in ("v7", "ustar"))


@pytest.mark.skipif(not shutil.which("tar"), reason="GNU tar is not installed")
@pytest.mark.parametrize(
    "flags", [["--format=gnu"], *(["--format=posix", f"--sparse-version={n}"] for n in ("0.0", "0.1", "1.0"))]
)
@pytest.mark.parametrize("extents", [0, 1, 4, 5, 26, 60])
def test_members_behind_gnu_tars_sparse_files_are_read(flags: list[str], extents: int, tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as sparse:
        for number in range(extents):
            sparse.seek(number << 20)
            sparse.write(b"x" * 5000)
        sparse.truncate(1 << 26)
    (tmp_path / "plain").write_bytes(b"plain")
    archive = subprocess.run(
        ["tar", *flags, "-S", "-cf", "-", "holes", "plain"], cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    (holes, _), (plain, content) = read(archive.stdout)
    assert (holes.name, holes.kind) == ("holes", MemberKind.SPECIAL)
    assert holes.target == "a sparse file, which tar makes with --sparse"
    assert (plain.name, content) == ("plain", b"plain")


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_members_of_git_archive_pass_over_its_comment(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", "-C", str(tmp_path)]
    (tmp_path / "a").write_bytes(b"alpha")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    archive = subprocess.run([*git, "archive", "--format=tar", "HEAD"], stdout=subprocess.PIPE, check=True).stdout
    assert b"pax_global_header" in archive
    assert [(member.name, content) for member, content in read(archive)] == [("a", b"alpha")]


HARMLESS: dict[str, tuple[list[Description], list[Item]]] = {
    "old file type": ([{"name": "a", "type": "old file", "content": "x"}], [file("a", b"x")]),
    "contiguous file": ([{"name": "a", "type": "contiguous", "content": "x"}], [file("a", b"x")]),
    "directory of v7": (
        [{"name": "d/", "type": "old file", "content": "", "fields": {"magic": "\0" * 8}}],
        [(Member(name="d/", kind=MemberKind.DIRECTORY, mode=0o644), b"")],
    ),
    "directory as a file": (
        [{"name": "d/", "content": ""}],
        [(Member(name="d/", kind=MemberKind.DIRECTORY, mode=0o644), b"")],
    ),
    "sizes of what has no content": (
        [
            {"name": "d", "type": "directory", "size": 4096},
            {"name": "s", "type": "symlink", "link": "a", "size": 1},
            {"name": "h", "type": "hardlink", "link": "a", "pax": {"size": 99}},
            {"name": "a", "content": "x"},
        ],
        [
            (Member(name="d", kind=MemberKind.DIRECTORY, mode=0o644), b""),
            (Member(name="s", kind=MemberKind.SYMLINK, mode=0o644, target="a"), b""),
            (Member(name="h", kind=MemberKind.HARDLINK, mode=0o644, target="a"), b""),
            file("a", b"x"),
        ],
    ),
    "link in a file's header": ([{"name": "a", "content": "x", "link": "b"}], [file("a", b"x")]),
    "prefix": ([{"name": "a", "prefix": "b/c", "content": ""}], [file("b/c/a")]),
    "no prefix in a GNU header": (
        [{"name": "a", "content": "", "fields": {"magic": "ustar  \0", "prefix": "12345670123"}}],
        [file("a")],
    ),
    "times behind the prefix of star": (
        [
            {
                "name": "a",
                "content": "",
                "fields": {"prefix": "b" + "\0" * 130 + "00000000000 ", "rest": "\0" * 8 + "tar\0"},
            }
        ],
        [file("b/a")],
    ),
    "PAX name, target and size": (
        [
            {"name": "x", "content": "12345", "size": 0, "pax": {"path": "ü", "size": 5, "mtime": "1.5"}},
            {"name": "l", "type": "symlink", "link": "x", "pax": {"linkpath": "ü/ö"}},
            {"name": "after", "content": ""},
        ],
        [
            file("ü", b"12345"),
            (Member(name="l", kind=MemberKind.SYMLINK, mode=0o644, target="ü/ö"), b""),
            file("after"),
        ],
    ),
    "empty PAX values": ([{"name": "a", "content": "x", "pax": {"path": "", "size": ""}}], [file("a", b"x")]),
    "PAX value with newline and equals sign": (
        [{"name": "x", "content": "", "pax": {"comment": "a\n1 b=c", "path": "a=b"}}],
        [file("a=b")],
    ),
    "attributes": (
        [
            {
                "name": "a",
                "content": "",
                "pax": {"SCHILY.xattr.security.capability": "\x01\0\0\x02", "LIBARCHIVE.xattr.user.x": "y"},
            }
        ],
        [file("a")],
    ),
    "global comment": ([{"name": "a", "content": "", "global": {"comment": "0" * 40, "mtime": "1"}}], [file("a")]),
    "GNU name and target": (
        [{"name": "x", "type": "symlink", "longname": "n" * 300, "longlink": "t" * 300}],
        [(Member(name="n" * 300, kind=MemberKind.SYMLINK, mode=0o644, target="t" * 300), b"")],
    ),
    "modes with type bits": ([{"name": "a", "content": "", "mode": "106777"}], [file("a", mode=0o6777)]),
    "numbers with spaces": (
        [{"name": "a", "content": "x", "fields": {"size": "         1 \0", "mode": "   644 \0"}}],
        [file("a", b"x")],
    ),
    "no numbers": ([{"name": "a", "content": "", "fields": {"size": "\0" * 12, "mode": " " * 8}}], [file("a", mode=0)]),
    "owners and times that are none": (
        [{"name": "a", "content": "", "uid": -1, "mtime": -5, "fields": {"gid": "zzzz"}}],
        [file("a")],
    ),
    "names for others to judge": (
        [{"name": name, "content": ""} for name in ("../a", "/a", "", ".", "a..b", "a\nb", "~root/x", "$(id)")],
        [file(name) for name in ("../a", "/a", "", ".", "a..b", "a\nb", "~root/x", "$(id)")],
    ),
}


@pytest.mark.parametrize("row", HARMLESS)
def test_members_of_unusual_archive_are_read(row: str) -> None:
    descriptions, expected = HARMLESS[row]
    assert read(tar(descriptions)) == expected


def test_members_with_checksum_of_signed_bytes_are_read() -> None:
    block = bytearray(header({"name": "ü"}, 0))
    unsigned = sum(block[:148]) + 8 * 32 + sum(block[156:])
    block[148:156] = b"%06o\0 " % (unsigned - 256 * len("ü".encode()))
    assert read(bytes(block) + bytes(2 * BLOCK)) == [file("ü")]


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 1 << 40, MOST_BYTES])
def test_members_with_large_size_are_read_as_they_come(size: int) -> None:
    member, content = next(members(iter([entry({"name": "a", "size": size, "content": ""}), b"start"]), SUBJECT))
    assert member.size == size
    assert bytes(next(content)) == b"start"
    with pytest.raises(HostileContentError, match='the archive ends in the middle of "a"'):
        next(content)


def record(text: str) -> list[Description]:
    """Describe a member whose PAX header is just this text."""
    return [{"name": "a", "content": "", "pax": {"raw": text}}]


HOSTILE: dict[str, tuple[list[Description], str]] = {
    "sparse file of another tar": ([{"name": "a", "type": "sparse"}], '"a" is a sparse file, and not as GNU tar'),
    "sparse files by a global header": (
        [{"name": "a", "global": {"GNU.sparse.major": 1}}],
        "sets the name or size of every member",
    ),
    "GNU directory dump": ([{"name": "d", "type": "D"}], '"d" is a GNU directory dump'),
    "GNU multi-volume": ([{"name": "a", "type": "M"}], '"a" is the rest of a file in another volume'),
    "GNU label": ([{"name": "backup", "type": "V"}], '"backup" is a volume label'),
    "unknown type": ([{"name": "a", "type": "Z"}], '"a" is of the unknown type "Z"'),
    "unprintable type": ([{"name": "a", "type": "\x1b"}], '"a" is of the unknown type "\\x1b"'),
    "Solaris header": ([{"name": "a", "type": "X"}], '"a" is of the unknown type "X"'),
    "C23 large PAX header": (
        [{"name": "x", "type": "pax", "size": MOST_EXTENSION_BYTES + 1}],
        "larger than the 1,048,576 bytes",
    ),
    "C23 PAX header of 1 GiB": ([{"name": "x", "type": "pax", "size": 1 << 30}], "larger than the 1,048,576 bytes"),
    "C23 large global header": ([{"name": "x", "type": "global", "size": 1 << 30}], "larger than the 1,048,576 bytes"),
    "C23 GNU name of 100 MB": ([{"name": "x", "type": "longname", "size": 10**8}], "larger than the 1,048,576 bytes"),
    "C23 GNU target of 100 MB": ([{"name": "x", "type": "longlink", "size": 10**8}], "larger than the 1,048,576 bytes"),
    "C23 global path": ([{"name": "a", "global": {"path": "b"}}], "sets the name or size of every member"),
    "C23 global target": ([{"name": "a", "global": {"linkpath": "b"}}], "sets the name or size of every member"),
    "C23 global size": ([{"name": "a", "global": {"size": 0}}], "sets the name or size of every member"),
    "C23 global headers in a row": (
        [{"name": "x", "type": "global", "content": "", "repeat": MOST_GLOBAL_HEADERS + 1}, {"name": "a"}],
        "too many headers for one member",
    ),
    "C23 two PAX headers": (
        [{"name": "x", "type": "pax"}, {"name": "a", "pax": {"path": "b"}}],
        "two headers for one thing",
    ),
    "two GNU names": ([{"name": "x", "type": "longname"}, {"name": "a", "longname": "b"}], "two headers for one thing"),
    "PAX and GNU name": (
        [{"name": "a", "pax": {"path": "b"}, "longname": "c"}],
        "the member at the beginning of the archive has two names",
    ),
    "global header behind a PAX header": (
        [{"name": "x", "type": "pax"}, {"name": "a", "global": {"comment": "b"}}],
        "too many headers for one member",
    ),
    "C25 size of -1": ([{"name": "a", "size": -1, "content": ""}], "has a negative size"),
    "C25 size of -512": ([{"name": "a", "size": -512, "content": ""}], "has a negative size"),
    "C25 size beyond 62 bits": ([{"name": "a", "size": MOST_BYTES + 1, "content": ""}], "has an absurd size"),
    "C25 size of 95 bits": (
        [{"name": "a", "content": "", "fields": {"size": "\xbf" + "\xff" * 11}}],
        "has an absurd size",
    ),
    "C25 octal -1": (
        [{"name": "a", "content": "", "fields": {"size": "-0000000001\0"}}],
        "a size that is no octal number",
    ),
    "size that Python would read": (
        [{"name": "a", "content": "", "fields": {"size": "0o1_0\0"}}],
        "a size that is no octal number",
    ),
    "size of nines": (
        [{"name": "a", "content": "", "fields": {"size": "99999999999\0"}}],
        "a size that is no octal number",
    ),
    "negative mode": ([{"name": "a", "content": "", "fields": {"mode": "\xff" * 8}}], "has a negative mode"),
    "C25 PAX size of -1": ([{"name": "a", "content": "", "pax": {"size": -1}}], "has a PAX header with an absurd size"),
    "C25 PAX size beyond 62 bits": (
        [{"name": "a", "pax": {"size": MOST_BYTES + 1}}],
        "has a PAX header with an absurd size",
    ),
    "C25 PAX size of many digits": (
        [{"name": "a", "pax": {"size": "1" * 5000}}],
        "has a PAX header with an absurd size",
    ),
    "PAX size with underscore": ([{"name": "a", "pax": {"size": "1_0"}}], "has a PAX header with an absurd size"),
    "PAX name with NUL": ([{"name": "a", "pax": {"path": "b\0c"}}], "has a PAX header with a NUL in a name"),
    "PAX target with NUL": ([{"name": "a", "pax": {"linkpath": "\0"}}], "has a PAX header with a NUL in a name"),
    "PAX key with NUL": (record("7 \0=b\n"[:6].replace("7", "6")), "a malformed record"),
    "PAX record of no length": (record(" a=b\n"), "a record of wrong length"),
    "PAX record of length 0": (record("0 a=b\n"), "a record of wrong length"),
    "PAX record of length 5": (record("5 a=b\n"), "a malformed record"),
    "PAX record of negative length": (record("-6 a=b\n"), "a record of wrong length"),
    "PAX record longer than its header": (record("7 a=b\n"), "a record of wrong length"),
    "PAX record of absurd length": (record("9" * 5000 + " a=b\n"), "a record of wrong length"),
    "PAX record in other digits": (record("٦ a=b\n"), "a record of wrong length"),
    "PAX record without a newline": (record("6 a=b "), "a malformed record"),
    "PAX record without an equals sign": (record("6 a-b\n"), "a malformed record"),
    "PAX record without a key": (record("6 =ab\n"), "a malformed record"),
    "PAX records followed by zeros": (record("6 a=b\n\0\0\0"), "a record of wrong length"),
    "two PAX names": ([{"name": "a", "pax": {"raw": pax({"path": "b"}).decode() * 2}}], "two values for path"),
    "directory with content": ([{"name": "a/", "content": "x"}], '"a/" is a directory with content'),
    "directory of v7 with content": (
        [{"name": "a/", "type": "old file", "content": "x"}],
        '"a/" is a directory with content',
    ),
    "GNU name with NUL": ([{"name": "a", "longname": "b\0c"}], "has a NUL in its name"),
    "name that is not UTF-8": ([{"name": "a\udcff", "content": ""}], 'the name "a\\xff" is not UTF-8'),
    "target that is not UTF-8": (
        [{"name": "a", "type": "symlink", "link": "\udcc3("}],
        'the name "\\xc3(" is not UTF-8',
    ),
    "PAX name that is not UTF-8": ([{"name": "a", "pax": {"path": "\udcff"}}], 'the name "\\xff" is not UTF-8'),
    "GNU name of a surrogate": ([{"name": "a", "longname": "\ud800"}], "is not UTF-8"),
    "wrong checksum": (
        [{"name": "a"}, {"name": "b", "fields": {"checksum": "0000000\0"}}],
        'the header after "a" has a wrong checksum',
    ),
    "checksum that is no number": (
        [{"name": "a"}, {"name": "b", "fields": {"checksum": "zzzzzzzz"}}],
        "has a wrong checksum",
    ),
    "negative checksum": ([{"name": "a"}, {"name": "b", "fields": {"checksum": "\xff" * 8}}], "has a wrong checksum"),
    "lone block of zeros": ([{"name": "a"}, {"blocks": 1}, {"name": "b"}], 'a lone block of zeros is after "a"'),
    "PAX header for nobody": (
        [{"name": "a"}, {"name": "x", "type": "pax"}],
        'after "a" is a header that belongs to no member',
    ),
    "GNU name for nobody": ([{"name": "x", "type": "longname"}], "is a header that belongs to no member"),
}


@pytest.mark.parametrize("row", HOSTILE)
def test_members_of_hostile_archive_are_refused(row: str) -> None:
    descriptions, cause = HOSTILE[row]
    assert cause in refusal(tar(descriptions))


SPARSE: dict[str, tuple[Description, str]] = {
    "old": ({"name": "a", "type": "sparse", "content": "x", "fields": {"magic": "ustar  \0"}}, "a"),
    "map": ({"name": "a", "content": "x", "pax": {"GNU.sparse.map": "0,1"}}, "a"),
    "1.0": (
        {"name": "a", "pax": {"GNU.sparse.major": 1, "GNU.sparse.minor": 0, "GNU.sparse.realsize": 1 << 63}},
        "a",
    ),
    "name": ({"name": "a", "pax": {"path": "b", "GNU.sparse.name": "../../evil"}}, "../../evil"),
    "link": ({"name": "a", "type": "symlink", "link": "x", "pax": {"GNU.sparse.major": 1}}, "a"),
}


@pytest.mark.parametrize("row", SPARSE)
def test_member_that_is_sparse_is_special_under_its_own_name(row: str) -> None:
    description, name = SPARSE[row]
    (sparse, _), (after, content) = read(tar([description, {"name": "after"}]))
    assert (sparse.name, sparse.kind) == (name, MemberKind.SPECIAL)
    assert (after.name, content) == ("after", b"after")


def test_sparse_file_whose_map_has_no_end_is_refused() -> None:
    fields = {"magic": "ustar  \0", "prefix": "\1" * 138}  # of which the last one says that the map goes on
    archive = tar([{"name": "a", "type": "sparse", "fields": fields, "content": "\1" * 5000}], end=b"")
    assert 'the archive ends in the middle of "a"' in refusal(archive)


@pytest.mark.parametrize("content", [b"a", b"not a tar" * 100, bytes(100), b"\x1f\x8b" + bytes(2000), b"\xff" * BLOCK])
def test_members_of_something_else_are_refused_as_no_tar(content: bytes) -> None:
    assert refusal(content) == "is no tar archive; push it with the media type of what it is"


def test_members_of_nothing_are_none() -> None:
    assert read(b"") == []
    assert read(bytes(BLOCK)) == []
    assert read(bytes(20 * BLOCK)) == []


@pytest.mark.parametrize(
    ("flag", "what"), [("character", "a character device"), ("block", "a block device"), ("fifo", "a FIFO")]
)
def test_special_file_says_what_it_is(flag: str, what: str) -> None:
    ((member, content),) = members(iter([tar([{"name": "dev/x", "type": flag}])]), SUBJECT)
    assert (member.kind, member.target, b"".join(content)) == (MemberKind.SPECIAL, what, b"")


def test_refusal_cuts_a_long_name() -> None:
    message = refusal(tar([{"name": "x", "type": "D", "longname": "\x1b[2J" + "n" * 5000}]))
    assert message.startswith('"\\x1b[2Jnnn')
    assert "n" * 60 in message
    assert len(message) < 200


CUT = [
    *PLAIN[:5],
    (Member(name="s" * 150, kind=MemberKind.SYMLINK, mode=0o777, target="t" * 200), b""),
    file("after", b"x"),
]


@pytest.mark.parametrize("tar_format", ["gnu", "pax"])
def test_archive_cut_anywhere_never_yields_less_in_silence(tar_format: str) -> None:
    archive, starts = written(CUT, FORMATS[tar_format])
    whole = {0: 0}  # lengths without a loss, and how many members they hold
    for count, (start, (member, _)) in enumerate(zip(starts[1:], CUT, strict=True), 1):
        whole |= dict.fromkeys(range(start - -member.size % BLOCK, start + 1), count)
    whole |= dict.fromkeys(range(starts[-1] + BLOCK, starts[-1] + 2 * BLOCK), len(CUT))
    for length in range(starts[-1] + 2 * BLOCK):
        if length in whole:
            assert read(archive[:length]) == CUT[: whole[length]]
        else:
            assert re.search("ends in the middle of|is no tar|belongs to no member", refusal(archive[:length]))


def test_content_read_in_part_or_not_at_all_does_not_disturb_the_next() -> None:
    archive = by_tarfile([file("a", b"a" * 2000), file("b", b"b" * 2000), file("c", b"c" * 2000)], tarfile.USTAR_FORMAT)
    reader = members(pieces(archive, 300), SUBJECT)
    _, first = next(reader)
    assert set(bytes(next(first))) == {ord("a")}
    _, second = next(reader)
    assert list(first) == []
    _, third = next(reader)
    assert list(second) == []
    assert b"".join(third) == b"c" * 2000
    assert next(reader, None) is None


def test_content_cut_short_is_refused_whether_read_or_not() -> None:
    archive = by_tarfile([file("a", b"a" * 2000)], tarfile.USTAR_FORMAT)[:2000]
    for is_read in (True, False):
        with pytest.raises(HostileContentError, match='ends in the middle of "a"'):
            [list(content) if is_read else None for _, content in members(pieces(archive), SUBJECT)]


def test_members_read_what_follows_the_end_to_its_end() -> None:
    rest = iter([tar([{"name": "a"}]), b"padding", b"more", tar([{"name": "hidden"}])])
    assert [member.name for member, _ in members(rest, SUBJECT)] == ["a"]
    assert next(rest, None) is None


def test_members_stop_where_the_caller_stops() -> None:
    chunks = iter([tar([{"name": "a"}, {"name": "b"}]), b"unread"])
    reader = members(chunks, SUBJECT)
    assert next(reader)[0].name == "a"
    reader.close()  # type: ignore[attr-defined]
    assert next(chunks) == b"unread"


def test_content_is_not_copied() -> None:
    chunk = tar([{"name": "a", "content": "x" * 1000}])
    _, content = next(members(iter([chunk]), SUBJECT))
    assert next(content).obj is chunk


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300).filter(
    lambda name: name.strip("/") == name
)
MODES = st.integers(0, 0o7777)
ITEMS = st.one_of(
    st.builds(file, NAMES, st.binary(max_size=2000), MODES),
    st.builds(lambda name, mode: (Member(name=name + "/", kind=MemberKind.DIRECTORY, mode=mode), b""), NAMES, MODES),
    st.builds(
        lambda kind, name, mode, target: (Member(name=name, kind=kind, mode=mode, target=target), b""),
        st.sampled_from([MemberKind.SYMLINK, MemberKind.HARDLINK]), NAMES, MODES, NAMES,
    ),
)  # fmt: skip


@given(items=st.lists(ITEMS, max_size=6), tar_format=st.sampled_from(["gnu", "pax"]), length=st.integers(1, 3000))
def test_members_of_any_archive_are_what_was_written(items: list[Item], tar_format: str, length: int) -> None:
    assert read(by_tarfile(items, FORMATS[tar_format]), length) == items


MUTATED = {name: by_tarfile(CUT, tar_format) for name, tar_format in FORMATS.items() if name != "ustar"}


@settings(max_examples=500, deadline=None)
@given(
    tar_format=st.sampled_from(sorted(MUTATED)),
    edits=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, BLOCK - 1), st.binary(min_size=1, max_size=12)), max_size=4
    ),
    cut=st.integers(0, 12_000),
    is_repaired=st.booleans(),
)
def test_members_of_mutated_archive_end_or_are_refused(
    tar_format: str, edits: list[tuple[int, int, bytes]], cut: int, *, is_repaired: bool
) -> None:
    archive = bytearray(MUTATED[tar_format][: max(cut, 1)])
    for block, place, value in edits:
        start = block * BLOCK
        if start + BLOCK <= len(archive):
            archive[start + place : start + place + len(value)] = value[: BLOCK - place]
            if is_repaired:
                archive[start + 148 : start + 156] = b" " * 8
                archive[start + 148 : start + 156] = b"%06o\0 " % sum(archive[start : start + BLOCK])
    message = f"{SUBJECT}: "
    try:
        assert all(len(content) == member.size for member, content in read(bytes(archive), 700))
    except UnacceptableError as error:  # either outcome is right
        message = error.message
    assert message.startswith(f"{SUBJECT}: ")
    assert not CONTROLS.search(message)
