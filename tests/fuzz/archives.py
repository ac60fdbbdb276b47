"""Archives by mutation: members that are hostile by name, type, link and size, and then bytes that are turned."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import zstandard
from hypothesis import strategies as st
from isal import igzip

from csi_oras.errors import CsiOrasError
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import Directory, View
from csi_oras.unpack.extract import Extractor
from csi_oras.unpack.needed import needed
from csi_oras.unpack.reader import UnpackLimits
from tests.fuzz.judge import MOST_BYTES, MOST_MEMBERS, Contents, assert_refusal, assert_view
from tests.support import tars
from tests.support.unpacking import SUBJECT, source

LIMITS = UnpackLimits(members=MOST_MEMBERS, size=MOST_BYTES, ratio=200)
SLOWEST_SECONDS = 20.0
_TURNED_PACKED, _MENDED, _IMAGES = 0.2, 0.7, 0.5
PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: tars.gzip,
    Compression.ZSTD: tars.zstd,
}
UNPACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: igzip.decompress,
    Compression.ZSTD: lambda data: zstandard.ZstdDecompressor().decompress(data, max_output_size=64 << 20),
}

_COMPONENTS = [
    "a", "b", "c", "d", "..", ".", "", "...", "a..b", ".wh.a", ".wh.b", ".wh..wh..opq", ".wh..wh.plnk", ".wh..",
    ".wh...", ".wh.", ".oci", ".csi-oras",
    "\u202e", "é", "e\u0301", "x" * 255, "y" * 256, "a\0b", "a\nb", "\udcff", "\u200b", "C:", "a\\b",
    "d" * 99,
]  # fmt: skip
paths = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "", "", "./", "/", "../", "//", "./../"]),
    st.lists(st.sampled_from(_COMPONENTS[:6]) | st.sampled_from(_COMPONENTS), min_size=1, max_size=4),
    st.sampled_from(["", "", "", "/", "//", "/."]),
)
_RECORDS = st.dictionaries(
    st.sampled_from(
        [
            "path",
            "linkpath",
            "size",
            "mtime",
            "comment",
            "GNU.sparse.major",
            "GNU.sparse.name",
            "SCHILY.xattr.user.x",
            "raw",
            "",
        ]
    ),
    paths | st.sampled_from(["0", "5", "512", "-1", "9" * 20, "1e3", "10 path=b\n", "99 a=b\n"]),
    min_size=1,
    max_size=2,
)
_NUMBERS = st.sampled_from(
    ["0000000\0", "77777777", "-1", "\x80\0\0\0\0\0\0\0", "\xff" * 8, "zzz", "", " 7 ", "\0" * 8]
)
members = st.fixed_dictionaries(
    {"name": paths, "type": st.sampled_from(["file"] * 5 + ["directory"] * 3 + ["symlink"] * 4 + ["hardlink"] * 3)
     | st.sampled_from(sorted(tars.TYPES)) | st.sampled_from(["Z", "D", "V", "M", "N", "X"])},
    optional={
        "link": paths,
        "mode": st.sampled_from(["0", "644", "755", "6777", "1"]),
        "size": st.sampled_from([0, 1, 511, 512, 513, -1, 2**33, 2**63 - 1]),
        "content": st.sampled_from(["", "x", "10 path=b\n", "y" * 513]),
        "prefix": paths,
        "pax": _RECORDS,
        "global": _RECORDS,
        "longname": paths,
        "longlink": paths,
        "fields": st.dictionaries(st.sampled_from(["size", "mode", "checksum", "magic", "type", "rest"]), _NUMBERS,
        max_size=1),
        "repeat": st.sampled_from([1, 2, 600]),
    },
)  # fmt: skip
_NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "l", "d"])
_PLAIN = st.fixed_dictionaries(
    {"name": _NAMES, "type": st.sampled_from(["file", "file", "directory", "symlink", "hardlink", "hardlink"])},
    optional={"link": _NAMES | paths, "mode": st.sampled_from(["755", "644"])},
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """One change of bytes: at a place between 0 and 1, by a value, which the kind of change reads as it likes."""

    kind: str
    place: float
    value: int
    mends: bool
    """Whether the header's checksum is made right again."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one example is: packed bytes, and how the plan says they are read."""

    contents: tuple[bytes, ...]
    compression: Compression
    is_image_layer: bool = False
    selection: Selection = field(default_factory=Selection)


def turned(data: bytes, turn: Turn) -> bytes:
    """Apply one change."""
    place = int(turn.place * len(data))
    block = place // tars.BLOCK * tars.BLOCK
    changed = bytearray(data)
    if turn.kind == "byte" and data:
        changed[place] ^= turn.value or 1
    elif turn.kind == "cut":
        return data[: block if turn.mends else place]
    elif turn.kind == "double":
        changed[block:block] = data[block : block + tars.BLOCK * (turn.value % 4 + 1)]
    elif turn.kind == "drop":
        del changed[block : block + tars.BLOCK]
    elif turn.kind == "zeros":
        changed[block:block] = bytes(tars.BLOCK)
    elif turn.kind == "text":
        changed[place : place + 12] = b"%011o\0" % (turn.value << turn.value % 20)
    if turn.mends and len(changed) >= block + tars.BLOCK:
        changed[block + 148 : block + 156] = tars.checksum(changed[block : block + tars.BLOCK])
    return bytes(changed)


_SELECTIONS = st.sampled_from([
    Selection(),
    Selection(),
    Selection(path=Name(("d",))),
    Selection(include=(Glob.parse("d/**"), Glob.parse("a"))),
    Selection(exclude=(Glob.parse("a"),)),
    Selection(include=(Glob.parse("b"), Glob.parse("l"))),
])  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One or two archives."""
    compression = draw(st.sampled_from(list(Compression)))
    return Case(
        contents=tuple(_packed(draw, compression) for _ in range(draw(st.sampled_from([1, 1, 2])))),
        compression=compression,
        is_image_layer=draw(st.booleans()),
        selection=draw(_SELECTIONS),
    )


def _packed(draw: st.DrawFn, compression: Compression) -> bytes:
    kinds = draw(st.sampled_from([_PLAIN, _PLAIN, _PLAIN | members, members]))
    described: list[dict[str, Any]] = draw(st.lists(kinds, max_size=6))
    data = tars.tar(described, end=bytes(tars.BLOCK * draw(st.sampled_from([2, 2, 2, 1, 0, 20]))))
    return PACK[compression](data)


def mutants(case: Case, seed: int, count: int) -> Iterator[Case]:
    """Yield variants of a case with some bytes turned, before they are packed or after it."""
    chance = random.Random(seed)  # noqa: S311 (nobody is to be kept from guessing it)
    plain = [UNPACK[case.compression](content) for content in case.contents]
    for _ in range(count):
        contents = list(case.contents)
        place = chance.randrange(len(contents))
        if chance.random() < _TURNED_PACKED:
            contents[place] = turned(contents[place], _turn(chance))
        else:
            data = plain[place]
            for _ in range(chance.choice([1, 1, 2, 3])):
                data = turned(data, _turn(chance))
            contents[place] = PACK[case.compression](data)
        yield replace(case, contents=tuple(contents), is_image_layer=chance.random() < _IMAGES)


def _turn(chance: random.Random) -> Turn:
    kinds = ("byte", "byte", "byte", "cut", "double", "drop", "zeros", "text")
    return Turn(chance.choice(kinds), chance.random(), chance.randrange(256), mends=chance.random() < _MENDED)


def check(case: Case) -> bool:
    """Unpack, hold whatever comes of it to what must be, and say whether anything was taken."""
    started = time.monotonic()
    view = View()
    taken = True
    try:
        _extract(case, view, case.selection)
    except CsiOrasError as error:
        assert_refusal(error, SUBJECT)
        taken = False
    assert_view(view)
    if case.selection.path:
        assert_view(view.rooted(case.selection.path))
    if taken and case.selection.narrows:
        _assert_part_of_the_whole(case, view)
    assert time.monotonic() - started < SLOWEST_SECONDS
    return taken


def _extract(case: Case, view: View, selection: Selection) -> None:
    """Unpack into `view`, which also has what came out before a refusal."""
    sources = [source(content, case.compression, is_image_layer=case.is_image_layer) for content in case.contents]
    extractor = Extractor(selection, Contents(), LIMITS, needed(sources, selection, LIMITS))
    extractor.view = view
    for one in sources:
        extractor.extract(one)


def _assert_part_of_the_whole(case: Case, view: View) -> None:
    """Hold files and links that are selected to what they are where everything is."""
    whole = View()
    try:
        _extract(case, whole, Selection())
    except CsiOrasError:
        return  # of what is not selected
    for components, node in view.walk():
        assert isinstance(node, Directory) or whole.find(Name(components)) == node
