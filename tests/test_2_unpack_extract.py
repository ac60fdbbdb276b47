"""Extraction: what archives become, what they may mean by links, and what is refused."""

import gzip
import io
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from csi_oras.errors import CsiOrasError, DigestMismatchError, HostileContentError, LimitExceededError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression
from csi_oras.oci.selection import Selection
from csi_oras.oci.view import File
from csi_oras.unpack.reader import UnpackLimits
from tests.support import tars
from tests.support.unpacking import (
    LIMITS,
    SUBJECT,
    Contents,
    Entry,
    directory,
    extract,
    hard,
    reg,
    source,
    sym,
    tar,
)


def extracted(
    *archives: bytes, selection: Selection | None = None, limits: UnpackLimits = LIMITS, **fields: Any
) -> dict[str, str | bytes | None]:
    """What comes out, by name: a file's bytes, `-> target` of a link, None for a directory."""
    sink = Contents()
    sources = [source(gzip.compress(data), Compression.GZIP, **fields) for data in archives]
    return sink.shown(extract(sources, sink, selection or Selection(), limits).view)


def refused(*archives: bytes, **fields: Any) -> CsiOrasError:
    with pytest.raises(CsiOrasError) as caught:
        extracted(*archives, **fields)
    assert SUBJECT in caught.value.message
    return caught.value


def layers(*archives: bytes, **fields: Any) -> dict[str, str | bytes | None]:
    return extracted(*archives, is_image_layer=True, **fields)


def test_archive_gives_files_directories_and_links() -> None:
    data = tar(directory("./"), directory("d/"), reg("./d/f", b"1"), sym("d/l", "f"), hard("h", "d/f"), directory("e"))
    assert extracted(data) == {"d": None, "d/f": b"1", "d/l": "-> f", "h": b"1", "e": None}


def test_modes_are_masked_to_readable_or_executable() -> None:
    data = tar(reg("a", b"1", 0o6755), reg("b", b"2", 0o666), reg("c", b"3", 0))
    view = extract([source(data)], Contents()).view
    modes = {at[0]: node.mode for at, node in view.walk() if isinstance(node, File)}
    assert modes == {"a": 0o555, "b": 0o444, "c": 0o444}


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ([reg("../evil")], "component"),
        ([reg("/abs/evil")], "absolute"),
        ([reg("a/../../evil")], "component"),
        ([sym("s", ".."), reg("s/evil")], "outside of the volume"),
        ([sym("s", "d"), reg("s/evil")], "written through"),
        ([sym("s", "/etc")], "absolute path"),
        ([directory("d"), sym("d/s", "../..")], "outside of the volume"),
        ([sym("x/", "y")], "name of a directory"),
        ([sym("", ".")], ""),
        ([sym(".", "/abs")], "name of a directory"),
        ([reg("x"), sym("a/s", "../x"), hard("h", "a/s")], "outside of the volume"),
        ([sym("a/s", "/x"), hard("h", "a/s")], "absolute path"),
        ([directory("d"), hard("h", "d")], "no file or link seen before"),
        ([reg("d/x"), hard("h", "d")], "no file or link seen before"),
        ([hard("h", "h")], "no file or link seen before"),
        ([hard("h", "../victim")], "component"),
        ([hard("h", "later"), reg("later")], "no file or link seen before"),
        ([sym("f", "x"), reg("f")], "twice"),
        ([reg("f"), reg("f")], "twice"),
        ([reg("f"), hard("f", "f")], "twice"),
        ([reg("a"), reg("a/b")], "written through"),
        ([reg("a"), directory("a")], "file or a link already"),
        ([directory("a"), reg("a")], "twice"),
        ([reg(".wh.x")], "whiteout"),
        ([reg("a\\b")], "backslash"),
        ([sym("l", "a\x1b[2Jb")], "no safe path"),
    ],
)
def test_archive_that_no_honest_tool_makes_is_refused(entries: list[Entry], word: str) -> None:
    error = refused(tar(*entries))
    assert isinstance(error, HostileContentError)
    assert word in error.message


def test_links_are_kept_as_the_shortest_way() -> None:
    data = tar(sym("a/b/l", "../../c/./d/../e"), sym("same", "x"), sym("a/up", "../a"), sym("a/self", "."))
    found = extracted(data)
    assert {name: text for name, text in found.items() if text} == {
        "a/b/l": "-> ../../c/e",
        "same": "-> x",
        "a/up": "-> .",
        "a/self": "-> .",
    }


def test_way_of_a_link_is_no_longer_than_any_file_system_takes() -> None:
    target = "/".join(["t" * 100] * 10)
    assert len(target) == 1009
    assert extracted(tar(sym("a/b/c/d/l", "/".join([*[".."] * 4, target])))) == {
        "a": None, "a/b": None, "a/b/c": None, "a/b/c/d": None, "a/b/c/d/l": f"-> ../../../../{target}",
    }  # fmt: skip
    assert "more than 1023 bytes" in refused(tar(sym("a/b/c/d/e/l", "/".join([*[".."] * 5, target])))).message


def test_chain_of_links_cannot_lead_out() -> None:
    found = extracted(tar(sym("p/q/s", "../.."), sym("t", "p/q/s/../x")))
    assert found["t"] == "-> p/q/x"


def test_image_layers_replace_and_white_out() -> None:
    base = tar(directory("etc"), reg("etc/a", b"1"), reg("etc/b", b"1"), reg("opt/x", b"1"), reg("tmp", b"1"))
    upper = tar(reg("etc/.wh.a", b""), reg("etc/b", b"2"), reg("opt/.wh..wh..opq", b""), reg("opt/y", b"2"))
    assert layers(base, upper) == {"etc": None, "etc/b": b"2", "opt": None, "opt/y": b"2", "tmp": b"1"}


def test_whiteouts_do_not_touch_their_own_layer() -> None:
    base, upper = tar(reg("d/old")), tar(reg("d/new"), reg("d/.wh..wh..opq", b""), reg("x"), reg(".wh.x", b""))
    assert layers(base, upper) == {"d": None, "d/new": b"x", "x": b"x"}


@pytest.mark.parametrize("name", [".wh..", ".wh...", "a/.wh..", "../.wh.x", ".wh."])
def test_whiteout_of_no_name_is_refused(name: str) -> None:
    refused(tar(reg(name, b"")), is_image_layer=True)


def test_image_has_the_names_and_links_of_a_root_file_system() -> None:
    data = tar(
        reg("var/lib/dpkg/info/libc6:amd64.list"),
        reg("lib/systemd/system\\x2d.slice"),
        sym("etc/mtab", "/proc/mounts"),
        sym("bin", "/usr/bin"),
        sym("root", "/"),
    )
    found = layers(data)
    assert found["etc/mtab"] == "-> ../proc/mounts"
    assert found["bin"] == "-> usr/bin"
    assert found["root"] == "-> ."
    assert "var/lib/dpkg/info/libc6:amd64.list" in found


def test_hard_link_of_a_layer_may_mean_a_file_or_link_below() -> None:
    assert layers(tar(reg("a", b"1")), tar(hard("b", "a"))) == {"a": b"1", "b": b"1"}
    assert layers(tar(sym("a", "x")), tar(hard("b", "a"))) == {"a": "-> x", "b": "-> x"}
    assert "no file or link seen before" in refused(tar(reg("a")), tar(hard("b", "a"))).message  # in what is no image


def test_hard_link_to_a_link_has_the_text_that_the_archive_gave_it() -> None:
    found = extracted(tar(reg("c/x"), sym("a/s", "../c/../c/x"), hard("b/h", "a/s"), hard("c/h", "b/h")))
    assert {name: text for name, text in found.items() if text} == {
        "c/x": b"x",
        "a/s": "-> ../c/x",
        "b/h": "-> ../c/x",
        "c/h": "-> x",
    }
    found = layers(tar(sym("usr/bin/vi", "/etc/alternatives/vi")), tar(hard("vi", "usr/bin/vi")))
    assert found["usr/bin/vi"] == "-> ../../etc/alternatives/vi"
    assert found["vi"] == "-> etc/alternatives/vi"


def test_only_what_is_selected_comes_out() -> None:
    data = tar(directory("d"), reg("d/a"), reg("d/b"), reg("e/a"), sym("e/l", "../d/a"))
    assert extracted(data, selection=Selection(include=(Glob.parse("d"),))) == {"d": None, "d/a": b"x", "d/b": b"x"}
    assert extracted(data, selection=Selection(exclude=(Glob.parse("**/a"), Glob.parse("d")))) == {
        "e": None,
        "e/l": "-> ../d/a",
    }


ONLY_E = Selection(include=(Glob.parse("e"),))


@pytest.mark.parametrize(
    "archives",
    [
        [[reg("d/a", b"1"), hard("e/h", "d/a")]],
        [[reg("d/a", b"1"), hard("d/b", "d/a"), hard("d/c", "d/b"), hard("e/h", "d/c")]],
        [[reg("d/a", b"1")], [hard("e/h", "d/a")]],
        [[reg("d/a", b"1")], [hard("d/b", "d/a")], [hard("c", "d/b")], [hard("e/h", "c")]],
        [[reg("d/a", b"0")], [directory("d"), reg("d/a", b"1")], [hard("e/h", "d/a")]],
        [[reg("d/a", b"1")], [hard("e/h", "d/a")], [reg("d/.wh.a", b"")]],
    ],
)
def test_hard_links_bring_what_they_mean_though_that_is_not_selected(archives: list[list[Entry]]) -> None:
    packed = [tar(*entries) for entries in archives]
    whole = layers(*packed)
    assert whole["e/h"] == b"1"
    assert layers(*packed, selection=ONLY_E) == {"e": None, "e/h": b"1"}
    assert layers(*packed, selection=Selection(path=Name(("e", "h")))) == {"e": None, "e/h": b"1"}


def test_hard_link_to_a_link_that_is_not_selected_is_kept_where_it_stays_inside() -> None:
    data = tar(sym("d/a", "../e/x"), hard("e/h", "d/a"))
    assert extracted(data, selection=ONLY_E) == {"e": None, "e/h": "-> x"}
    assert (
        "outside of the volume"
        in refused(tar(sym("d/a", "../f"), hard("e/h", "d/a")), selection=Selection(path=Name(("e",)))).message
    )


def test_hard_link_to_what_a_layer_took_away_is_refused_with_a_selection_as_without() -> None:
    packed = [tar(reg("d/a")), tar(reg("d/.wh.a", b"")), tar(hard("e/h", "d/a"))]
    for selection in (Selection(), ONLY_E):
        assert "no file or link seen before" in refused(*packed, is_image_layer=True, selection=selection).message


def test_file_that_no_selected_hard_link_means_is_not_kept() -> None:
    sink = Contents()
    data = tar(reg("d/a", b"1"), reg("d/b", b"2"), hard("d/c", "d/b"), hard("e/h", "d/a"))
    extract([source(data)], sink, ONLY_E)
    assert list(sink.kept.values()) == [b"1"]


def test_link_that_leaves_the_path_is_refused_and_can_be_left_out() -> None:
    data = tar(reg("d/a"), sym("d/l", "../e"))
    path = Name.parse("d")
    assert "outside of the volume" in refused(data, selection=Selection(path=path)).message
    found = extracted(data, selection=Selection(path=path, exclude=(Glob.parse("**/l"),)))
    assert found == {"d": None, "d/a": b"x"}


def test_members_must_be_where_the_layer_is_named_for() -> None:
    data = tar(directory("data"), reg("data/x"))
    assert extracted(data, prefix=Name.parse("data")) == {"data": None, "data/x": b"x"}
    assert extracted(data, prefix=Name.parse("data"), directory=Name.parse("up")) == {
        "up": None,
        "up/data": None,
        "up/data/x": b"x",
    }
    assert "named for" in refused(tar(reg("other")), prefix=Name.parse("data")).message
    assert "named for" in refused(tar(reg("data-evil/x")), prefix=Name.parse("data")).message


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_special_file_is_refused_unless_it_is_left_out(kind: bytes) -> None:
    data = tar(reg("a"), ("dev/x", {"type": kind}))
    assert 'member "dev/x" is a ' in refused(data).message
    assert 'member "dev/x" is a ' in refused(data, is_image_layer=True).message
    assert extracted(data, selection=Selection(exclude=(Glob.parse("dev"),))) == {"a": b"x"}


def test_sparse_file_is_refused_unless_it_is_left_out() -> None:
    data = tars.tar([{"name": "holes", "content": "x", "pax": {"GNU.sparse.map": "0,1"}}, {"name": "a"}])
    assert 'member "holes" is a sparse file, which tar makes with --sparse' in refused(data).message
    assert extracted(data, selection=Selection(exclude=(Glob.parse("holes"),))) == {"a": b"a"}


def test_links_are_passed_over_where_the_kind_does_so() -> None:
    assert extracted(tar(sym("l", "/etc"), reg("f"), hard("h", "f")), skips_links=True) == {"f": b"x"}


def test_archive_with_another_digest_than_said_is_refused() -> None:
    data = tar(reg("f"))
    assert extracted(data, content=Digest.of(data)) == {"f": b"x"}
    assert isinstance(refused(data, content=Digest.of(b"other")), DigestMismatchError)


def test_directories_that_names_imply_count() -> None:
    limits = UnpackLimits(members=64, size=0, ratio=200)
    deepest = reg("d/" * 63 + "f")
    assert len(extracted(tar(deepest), limits=limits)) == 64
    assert isinstance(refused(tar(deepest, reg("g")), limits=limits), LimitExceededError)
    assert isinstance(refused(tar(reg("g"), deepest), limits=limits), LimitExceededError)
    assert isinstance(refused(tar(deepest), tar(reg("g")), limits=limits), LimitExceededError)


def test_member_beyond_the_limit_is_not_taken() -> None:
    sink, limits = Contents(), UnpackLimits(members=2, size=0, ratio=200)
    with pytest.raises(LimitExceededError):
        extract([source(tar(reg("a", b"1"), reg("b", b"2"), reg("c", b"3")))], sink, limits=limits)
    assert sorted(sink.kept.values()) == [b"1", b"2"]


def test_name_of_many_dots_costs_nothing() -> None:
    assert extracted(tar(reg("./" * 400_000 + "f"))) == {"f": b"x"}


def test_limits_hold_over_all_archives_together() -> None:
    one, two = tar(reg("a"), reg("b")), tar(reg("c"), reg("d"))
    limits = UnpackLimits(members=3, size=0, ratio=200)
    assert len(extracted(one, limits=limits)) == 2
    assert isinstance(refused(one, two, limits=limits), LimitExceededError)
    assert isinstance(refused(tar(reg("a", b"x" * 50_000)), limits=UnpackLimits(members=9, size=20_000, ratio=200)),
                      LimitExceededError)  # fmt: skip


def test_archive_of_which_only_the_blob_has_a_digest_is_held_against_it() -> None:
    data = tar(reg("a", b"as it was fetched"))
    rotted = data.replace(b"as it was", b"as it is ")
    as_fetched = source(data)
    changed = replace(as_fetched, open_blob=lambda: io.BytesIO(rotted))
    with pytest.raises(DigestMismatchError, match="is an archive with digest"):
        extract([changed], Contents())
