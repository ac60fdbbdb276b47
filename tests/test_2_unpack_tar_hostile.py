"""The tar reader: what no honest tool writes is refused, and so is what was cut or changed on the way."""

import re
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_oras.errors import HostileContentError, UnacceptableError
from csi_oras.unpack.header import MOST_BYTES
from csi_oras.unpack.tar import MOST_EXTENSION_BYTES, MOST_GLOBAL_HEADERS, Member, MemberKind, members
from tests.support.tar_reading import (
    BLOCK,
    CONTROLS,
    SUBJECT,
    by_tarfile,
    file,
    pieces,
    read,
    refusal,
    written,
)
from tests.support.tars import Description, pax, tar
from tests.support.unpacking import FORMATS


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


def test_sparse_file_whose_map_has_no_end_is_refused() -> None:
    fields = {"magic": "ustar  \0", "prefix": "\1" * 138}  # of which the last one says that the map goes on
    archive = tar([{"name": "a", "type": "sparse", "fields": fields, "content": "\1" * 5000}], end=b"")
    assert 'the archive ends in the middle of "a"' in refusal(archive)


@pytest.mark.parametrize("content", [b"a", b"not a tar" * 100, bytes(100), b"\x1f\x8b" + bytes(2000), b"\xff" * BLOCK])
def test_members_of_something_else_are_refused_as_no_tar(content: bytes) -> None:
    assert refusal(content) == "is no tar archive; push it with the media type of what it is"


def test_refusal_cuts_a_long_name() -> None:
    message = refusal(tar([{"name": "x", "type": "D", "longname": "\x1b[2J" + "n" * 5000}]))
    assert message.startswith('"\\x1b[2Jnnn')
    assert "n" * 60 in message
    assert len(message) < 200


CUT = [
    (Member(name="d/", kind=MemberKind.DIRECTORY, mode=0o755), b""),
    file("d/empty"),
    file("d/block", b"b" * BLOCK),
    file("d/more", bytes(range(256)) * 6 + b"1"),
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


def test_content_cut_short_is_refused_whether_read_or_not() -> None:
    archive = by_tarfile([file("a", b"a" * 2000)], tarfile.USTAR_FORMAT)[:2000]
    for is_read in (True, False):
        with pytest.raises(HostileContentError, match='ends in the middle of "a"'):
            [list(content) if is_read else None for _, content in members(pieces(archive), SUBJECT)]


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
