"""The tar reader: what tarfile, GNU tar and git write is read as they meant it, and what is unusual as Go reads it."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.errors import HostileContentError
from csi_oras.unpack.header import MOST_BYTES
from csi_oras.unpack.tar import Member, MemberKind, members
from tests.support.tar_reading import (
    BLOCK,
    KINDS,
    SUBJECT,
    Item,
    by_tarfile,
    file,
    pieces,
    read,
)
from tests.support.tars import Description, entry, header, tar
from tests.support.unpacking import FORMATS

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
