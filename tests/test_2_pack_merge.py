"""Merging: the rules of overlayfs, what is selected, and what no artifact can carry."""

import pytest

from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Change, Directory, File, Found, Link, Origin, Special, Whiteout
from csi_oras.pack.merge import Merged, merge
from tests.support.changes import BASE, UPPER, a_directory, a_file, a_link, at, opaque


def merged(base: list[Change], written: list[Change], include: str = "", exclude: str = "") -> Merged:
    included, excluded = (tuple(map(Glob.parse, filter(None, [pattern]))) for pattern in (include, exclude))
    return merge(base, written, Selection(include=included, exclude=excluded))


def names(found: Merged) -> dict[str, str]:
    """What is there by name, and where it comes from."""
    return {str(name): f"{type(node).__name__} {node.origin}".lower() for name, node in found.entries.items()}


D = [at("d", a_directory(BASE)), at("d/a", a_file(BASE)), at("d/b", a_file(BASE))]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], {"d/a": "file base", "d/b": "file base"}),
        ([at("d", a_directory(UPPER))], {"d/a": "file base", "d/b": "file base"}),
        ([at("d", a_directory(UPPER)), at("d/a", a_file(UPPER))], {"d/a": "file upper", "d/b": "file base"}),
        ([at("d", a_directory(UPPER)), at("d/a", Whiteout())], {"d/b": "file base"}),
        ([at("d", a_directory(UPPER)), at("d/c", Whiteout())], {"d/a": "file base", "d/b": "file base"}),
        ([at("d", a_directory(UPPER)), at("d/a", Whiteout()), at("d/b", Whiteout())], {"d": "directory base"}),
        ([at("d", Whiteout())], {}),
        ([at("d", a_file(UPPER))], {"d": "file upper"}),
        ([at("d", a_link(UPPER, "e"))], {"d": "link upper"}),
        ([at("d", opaque())], {"d": "directory upper"}),
        ([at("d", opaque()), at("d/c", a_file(UPPER))], {"d/c": "file upper"}),
        ([at("d", a_directory(UPPER)), at("d/a", a_directory(UPPER))], {"d/a": "directory upper", "d/b": "file base"}),
        ([at("e", a_directory(UPPER))], {"d/a": "file base", "d/b": "file base", "e": "directory upper"}),
    ],
    ids=["nothing", "copied up", "changed", "deleted", "whiteout of nothing", "emptied", "directory deleted",
         "file over directory", "link over directory", "directory made anew", "and filled", "directory over file",
         "empty directory"],
)  # fmt: skip
def test_merge_shows_what_overlayfs_shows(written: list[Change], expected: dict[str, str]) -> None:
    assert names(merged(D, written)) == expected


@pytest.mark.parametrize(
    ("written", "is_changed", "lost"),
    [
        ([], False, set()),
        ([at("d", a_directory(UPPER))], False, set()),
        ([at("x", Whiteout())], False, set()),
        ([at("d", a_directory(UPPER)), at("d/c", a_file(UPPER))], True, set()),
        ([at("d", a_directory(UPPER)), at("d/a", a_file(UPPER))], True, {("d", "a")}),
        ([at("d", Whiteout())], True, {("d",)}),
    ],
    ids=["nothing", "copied up", "whiteout of nothing", "added", "changed", "deleted"],
)
def test_merge_tells_what_the_base_has_lost(written: list[Change], is_changed: bool, lost: set[object]) -> None:  # noqa: FBT001
    found = merged(D, written)
    assert (found.is_changed, set(found.lost)) == (is_changed, lost)


@pytest.mark.parametrize(
    ("globs", "written", "expected"),
    [
        ({"exclude": "d/a"}, [], {"d/b": "base"}),
        ({"exclude": "d/a"}, [at("d", a_directory(UPPER)), at("d/a", a_file(UPPER))], {"d/b": "base"}),
        ({"exclude": "d/a"}, [at("d", Whiteout())], {}),
        ({"exclude": "d/a"}, [at("d", opaque()), at("d/c", a_file(UPPER))], {"d/c": "upper"}),
        ({"exclude": "d/a"}, [at("d", a_file(UPPER))], {"d": "upper"}),
        ({"exclude": "d"}, [at("e", a_file(UPPER))], {"e": "upper"}),
        ({"exclude": "d/*"}, [], {"d": "base"}),
        ({"exclude": "d/*"}, [at("d", Whiteout())], {}),
        ({"include": "e"}, [at("e", a_file(UPPER))], {"e": "upper"}),
        ({"include": "d/**"}, [at("d", a_file(UPPER))], {}),
        ({"include": "**/a"}, [at("x", a_directory(UPPER)), at("x/a", a_file(UPPER)), at("x/y", a_file(UPPER))],
         {"d/a": "base", "x/a": "upper"}),
        ({"include": "*.txt"}, [at("x", a_directory(UPPER)), at("x/y", a_file(UPPER))], {}),
        ({"include": "d/a/**"},
         [at("d", a_directory(UPPER)), at("d/a", a_directory(UPPER)), at("d/a/x", a_file(UPPER))], {"d/a/x": "upper"}),
    ],
    ids=["of the base", "change", "deletion above", "made anew above", "file above", "directory", "all in a directory",
         "and it is deleted", "not included", "directory that a file took the place of",
         "directories for the name below", "directory of nothing", "directory in the place of a file"],
)  # fmt: skip
def test_what_is_not_selected_is_not_there_whoever_made_it(
    globs: dict[str, str], written: list[Change], expected: dict[str, str]
) -> None:
    found = merged(D, written, **globs)
    assert {str(name): str(node.origin) for name, node in found.entries.items()} == expected
    kept = {name.components for name, node in found.entries.items() if node.origin is Origin.BASE}
    lost = {path for path, _ in D if any(path[:depth] in found.lost for depth in (1, 2))}
    assert {path for path, node in D if isinstance(node, File)} - lost == kept - {("d",)}


@pytest.mark.parametrize(
    ("globs", "written", "is_changed"),
    [
        ({"exclude": "*.tmp"}, [at("x.tmp", a_file(UPPER))], False),
        ({"exclude": "*.tmp"}, [at("x", a_file(UPPER))], True),
        ({"include": "d"}, [at("x", a_directory(UPPER)), at("x/y", Special(UPPER, "is a FIFO"))], False),
        ({"exclude": "d/a"}, [], True),
        ({"include": "d/a"}, [], True),
    ],
    ids=["written outside", "written", "what is special outside", "base excluded", "base not included"],
)
def test_volume_is_changed_if_what_is_selected_of_it_is_not_all_of_the_base(
    globs: dict[str, str],
    written: list[Change],
    is_changed: bool,  # noqa: FBT001
) -> None:
    found = merged(D, written, **globs)
    assert found.is_changed == is_changed
    assert found.uncarriable == ()


def test_base_that_no_artifact_can_carry_is_lost_where_it_is_not_selected() -> None:
    found = merged([*D, at("d/a:b", Special(BASE, "has a name"))], [], exclude="d/a:b")
    assert (found.uncarriable, set(found.lost)) == ((), {("d", "a:b")})
    assert names(found) == {"d/a": "file base", "d/b": "file base"}


def test_link_leads_back_over_directories_that_are_selected_only() -> None:
    written = [at("x", a_directory(UPPER)), at("x/y", a_file(UPPER)), at("l", a_link(UPPER, "x/../x/y"))]
    assert merged([], written).uncarriable == ()
    assert [one.name for one in merged([], written, exclude="x").uncarriable] == ["l"]


@pytest.mark.parametrize("target", ["x", "./x", "../d/x", "../e", "../", ".", "x/y/../z", "missing", "../d/../d/x"])
def test_link_that_stays_inside_is_carried(target: str) -> None:
    written = [at("d", a_directory(UPPER)), at("d/x", a_directory(UPPER)), at("d/x/y", a_directory(UPPER))]
    found = merged([], [*written, at("d/l", a_link(UPPER, target))])
    assert found.uncarriable == ()
    assert found.entries[Name.parse("d/l")] == Link(Origin.UPPER, target)


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("/etc/shadow", "absolute"),
        ("../../x", "outside of the volume"),
        ("x/../../../x", "outside of the volume"),
        ("/proc/self/root", "absolute"),
        ("a\nb", "no safe path"),
        ("\udcff", "no safe path"),
        ("../.oci/config", "no safe path"),
        ("up/../../x", "leads back over what is no directory"),
        ("up/..", "leads back over what is no directory"),
        ("file/../x", "leads back over what is no directory"),
        ("missing/../x", "leads back over what is no directory"),
        ("\udcff/../x", "no safe path"),
    ],
)
def test_link_that_leads_out_or_nobody_knows_where_is_uncarriable(target: str, word: str) -> None:
    written = [
        at("d", a_directory(UPPER)),
        at("d/up", a_link(UPPER, "..")),
        at("d/file", a_file(UPPER)),
        at("d/l", a_link(UPPER, target)),
    ]
    (found,) = merged([], written).uncarriable
    assert found.name == "d/l"
    assert word in found.reason


def test_what_is_special_is_uncarriable_unless_it_is_gone_or_not_selected() -> None:
    special: Found = Special(UPPER, "is a FIFO")
    assert [one.name for one in merged([], [at("x", special)]).uncarriable] == ["x"]
    assert merged([], [at("x", special)], exclude="x").uncarriable == ()
    assert merged([at("a:b", special)], [at("a:b", Whiteout())]).uncarriable == ()


@pytest.mark.parametrize("found", [a_file(UPPER), a_directory(UPPER)], ids=["file", "directory"])
def test_names_that_look_the_same_are_uncarriable(found: Found) -> None:
    base = [at("d", a_directory(BASE)), at("d/e\u0301", a_file(BASE))]
    written = [at("d", a_directory(UPPER)), at("d/\u00e9", found)]
    (uncarriable,) = merged(base, written).uncarriable
    assert uncarriable.name == "d/\u00e9"
    assert uncarriable.reason == r'looks the same as another name beside it ("e\u0301" and "\xe9")'
    assert merged(base, [*written, at("d/e\u0301", Whiteout())]).uncarriable == ()


def test_uncarriable_names_come_in_order_and_are_safe_to_print() -> None:
    written = [
        at("z\n", Special(UPPER, "one")),
        at("a\udcff", Special(UPPER, "two")),
        at("\u202e", Special(UPPER, "three")),
    ]
    assert [one.name for one in merged([], written).uncarriable] == ["a\\xff", "z\\n", "\\u202e"]


def test_merge_keeps_directories_opaque_or_not_as_directories() -> None:
    found = merged([], [at("d", opaque())])
    assert found.entries == {Name.parse("d"): Directory(Origin.UPPER, is_opaque=True)}
