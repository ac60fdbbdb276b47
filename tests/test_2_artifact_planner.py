"""The planner: which layers become which files, and what is refused before a byte is fetched."""

import json
from typing import Any

import pytest

from csi_oras.errors import CsiOrasError, HostileContentError, InvalidRequestError
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, Plan, PlanArchive
from csi_oras.oci.selection import Selection
from tests.support import planning
from tests.support.artifacts import EMPTY_TYPE, Layer, sha256

SUBJECT = "reg.example/t/x:v1"
PACKED = {"io.deis.oras.content.unpack": "true"}


def planned(layers: list[Layer], **selected: Any) -> Plan:
    return planning.planned(planning.artifact(layers, reference=SUBJECT), **selected)


def titled(*titles: str | None) -> list[Layer]:
    """A layer for each title, each with content of its own."""
    return [Layer(content=f"layer {number}".encode(), title=title) for number, title in enumerate(titles)]


def names(found: Plan) -> list[str]:
    return [str(entry.name) for entry in found.entries]


def globs(*patterns: str) -> tuple[Glob, ...]:
    return tuple(map(Glob.parse, patterns))


# -- names


def test_layers_become_files_under_their_titles_in_the_order_of_names() -> None:
    found = planned(titled("b/c.txt", "a", "b/a.txt"))
    assert names(found) == ["a", "b/a.txt", "b/c.txt"]
    assert [entry.layer for entry in found.entries] == [1, 2, 0]
    assert {entry.rule for entry in found.entries} == {"title"}
    assert {entry.mode for entry in found.entries} == {0o444}


@pytest.mark.parametrize("title", [None, ""])
def test_untitled_layer_is_a_file_under_its_digest(title: str | None) -> None:
    layer = Layer(content=b"alpha", title=title)
    assert names(planned([layer])) == ["sha256-" + sha256(b"alpha").partition(":")[2]]


def test_annotations_of_any_other_meaning_change_nothing() -> None:
    metadata = json.dumps({"mode": 0o4755, "uid": 0, "typeflag": 50, "size": -1})
    layer = Layer(content=b"alpha", title="a", annotations={"org.cncf.model.file.metadata+json": metadata})
    assert planned([layer]).digest == planned([Layer(content=b"alpha", title="a")]).digest


def test_hostile_title_is_refused_even_where_it_is_not_selected() -> None:
    with pytest.raises(HostileContentError, match=r'layer 1 .*has a ".." component'):
        planned(titled("a", "../b"), include=globs("a"))


# -- duplicates and collisions


def test_two_layers_of_one_name_and_other_content_are_refused() -> None:
    with pytest.raises(HostileContentError, match=r'layers 0 and 2: have the same name \("a/b"\)'):
        planned(titled("a/b", "c", "a/b"))


def test_the_very_same_layer_twice_is_one_file() -> None:
    layer = Layer(content=b"alpha", title="a")
    found = planned([layer, layer, Layer(content=b"alpha", title="b")])
    assert names(found) == ["a", "b"]
    assert len(found.blobs) == 1


def test_two_untitled_layers_of_one_content_are_one_file() -> None:
    assert len(planned([Layer(content=b"alpha"), Layer(content=b"alpha")]).entries) == 1


def test_title_that_is_the_digest_name_of_another_layer_is_refused() -> None:
    digest_name = "sha256-" + sha256(b"alpha").partition(":")[2]
    with pytest.raises(HostileContentError, match="have the same name"):
        planned([Layer(content=b"alpha"), Layer(content=b"evil", title=digest_name)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u00e9", "e\u0301"),
        ("d/\u00e9.txt", "d/e\u0301.txt"),
        ("\u00e9/a", "e\u0301/a"),
        ("\u212b", "\u00c5"),
        ("\uac00", "\u1100\u1161"),
    ],
    ids=ascii,
)
def test_names_that_look_the_same_are_refused(one: str, other: str) -> None:
    with pytest.raises(HostileContentError, match="layers 0 and 1: have names that look the same"):
        planned(titled(one, other))


def test_names_that_look_the_same_are_refused_also_with_the_same_content() -> None:
    with pytest.raises(HostileContentError, match="look the same"):
        planned([Layer(content=b"alpha", title="\u00e9"), Layer(content=b"alpha", title="e\u0301")])


def test_names_that_differ_in_case_only_are_two_files() -> None:
    assert names(planned(titled("readme", "README"))) == ["README", "readme"]


@pytest.mark.parametrize(
    "titles", [("a", "a/b"), ("a/b", "a"), ("a/b", "a/b/c/d"), ("x/y/z", "x/y"), ("\u00e9", "e\u0301/a")], ids=ascii
)
def test_file_where_another_name_needs_a_directory_is_refused(titles: tuple[str, str]) -> None:
    with pytest.raises(HostileContentError, match="are a file and a directory of one name"):
        planned(titled(*titles))


def test_name_that_only_begins_like_another_is_no_conflict() -> None:
    assert names(planned(titled("a", "ab/c", "a.b"))) == ["a", "a.b", "ab/c"]


def test_collision_is_no_longer_one_when_one_of_the_two_is_not_selected() -> None:
    layers = titled("a", "a")
    layers[1].media_type = "application/vnd.acme.other"
    assert names(planned(layers, media_types=frozenset({"application/vnd.acme.other"}))) == ["a"]


def test_one_blob_of_two_sizes_is_refused_wherever_it_is() -> None:
    lying = Layer(content=b"alpha", title="b", claims={"size": 10**12})
    with pytest.raises(HostileContentError, match=r"layer 1 .* has 1000000000000 bytes here and 5 in another place"):
        planned([Layer(content=b"alpha", title="a"), lying], include=globs("a"))


# -- selection


TREE = ("a.json", "b.bin", "d/a.json", "d/e/b.bin", "d/e/c.json", "f/a.json")

SELECTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "everything": ({}, list(TREE)),
    "include at the top": ({"include": globs("*.json")}, ["a.json"]),
    "include anywhere": ({"include": globs("**/*.json")}, ["a.json", "d/a.json", "d/e/c.json", "f/a.json"]),
    "include a directory": ({"include": globs("d/e")}, ["d/e/b.bin", "d/e/c.json"]),
    "include one of two": ({"include": globs("f", "b.bin")}, ["b.bin", "f/a.json"]),
    "exclude": ({"exclude": globs("**/*.json")}, ["b.bin", "d/e/b.bin"]),
    "exclude a directory": ({"exclude": globs("d")}, ["a.json", "b.bin", "f/a.json"]),
    "exclude wins": ({"include": globs("d"), "exclude": globs("d/e")}, ["d/a.json"]),
    "path of a directory": ({"path": Name.parse("d")}, ["a.json", "e/b.bin", "e/c.json"]),
    "path of a deeper directory": ({"path": Name.parse("d/e")}, ["b.bin", "c.json"]),
    "path and include by the full name": (
        {"path": Name.parse("d"), "include": globs("d/e/*.bin")},
        ["e/b.bin"],
    ),
    "path of a file": ({"path": Name.parse("d/e/c.json")}, ["c.json"]),
    "path of a file at the top": ({"path": Name.parse("b.bin")}, ["b.bin"]),
}


@pytest.mark.parametrize(("selected", "expected"), SELECTIONS.values(), ids=SELECTIONS.keys())
def test_selection_shows_what_it_names(selected: dict[str, Any], expected: list[str]) -> None:
    found = planned(titled(*TREE), **selected)
    assert names(found) == expected
    assert found.single == (selected.get("path") in (Name.parse("d/e/c.json"), Name.parse("b.bin")))
    assert len(found.entries) + len(found.left) == len(TREE)


def test_selection_by_media_type_takes_exactly_those() -> None:
    layers = titled("a", "b", "c")
    layers[0].media_type, layers[1].media_type = "application/vnd.acme.weights", "application/vnd.acme.weights2"
    assert names(planned(layers, media_types=frozenset({"application/vnd.acme.weights"}))) == ["a"]


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    layers = [*titled("a", "b", "c", "d/e"), Layer(content=b"{}", media_type=EMPTY_TYPE)]
    layers[1].media_type = "application/vnd.acme.other"
    media_types = frozenset({layers[0].media_type})
    found = planned(layers, media_types=media_types, exclude=globs("c"), path=Name.parse("a"))
    assert [(left.layer, left.reason) for left in found.left] == [
        (1, "b: media type application/vnd.acme.other not selected"),
        (2, "c: excluded"),
        (3, "d/e: outside path"),
        (4, "is the empty descriptor"),
    ]


@pytest.mark.parametrize(
    "selected",
    [{"include": globs("nothing")}, {"exclude": globs("**")}, {"media_types": frozenset({"a/b"})}],
    ids=["include", "exclude", "media type"],
)
def test_selection_that_leaves_nothing_is_an_error_that_names_the_artifact(selected: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=f"{SUBJECT}: include, exclude and mediaTypes leave no file"):
        planned(titled("a"), **selected)


@pytest.mark.parametrize("path", ["nothing", "d/nothing", "a.jso", "a.json/x", "D"])
@pytest.mark.parametrize("titles", [TREE, ()], ids=["files", "no files"])
def test_path_that_names_nothing_is_an_error_that_names_it(titles: tuple[str, ...], path: str) -> None:
    with pytest.raises(InvalidRequestError, match=f'{SUBJECT}: path "{path}" is not in the artifact'):
        planned(titled(*titles), path=Name.parse(path))


# -- packed directories


TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def archive(found: Plan) -> PlanArchive:
    (one,) = found.archives
    return one


def test_packed_directory_becomes_an_archive_of_what_is_below_its_title() -> None:
    content = {"io.deis.oras.content.digest": sha256(b"uncompressed")}
    packed = Layer(content=b"tar", title="some/dir", media_type=TAR_GZIP, annotations={**PACKED, **content})
    found = planned([*titled("a"), packed])
    assert names(found) == ["a"]
    one = archive(found)
    assert (one.directory, one.prefix, one.root) == (None, Name.parse("some/dir"), Name.parse("some/dir"))
    assert (one.layer, one.compression, one.content) == (1, Compression.GZIP, Digest.of(b"uncompressed"))
    assert not one.is_image_layer
    assert not one.skips_links


def test_packed_directory_may_have_a_slash_behind_its_title() -> None:
    packed = Layer(content=b"tar", title="dir/", annotations=PACKED)
    assert archive(planned([packed])).root == Name.parse("dir")


@pytest.mark.parametrize("title", [".", "./"])
def test_packed_directory_titled_dot_is_the_root(title: str) -> None:
    content = {"io.deis.oras.content.digest": sha256(b"uncompressed")}
    found = planned([*titled("a"), Layer(content=b"tar", title=title, annotations={**PACKED, **content})])
    one = archive(found)
    assert (one.directory, one.prefix, one.root, one.content) == (None, None, None, Digest.of(b"uncompressed"))


def test_packed_root_that_is_not_to_be_unpacked_goes_by_its_digest() -> None:
    found = planned([Layer(content=b"tar", title=".", annotations=PACKED)], unpack=False)
    assert names(found) == [sha256(b"tar").replace(":", "-")]


def test_only_a_packed_directory_may_be_titled_dot() -> None:
    with pytest.raises(HostileContentError, match=r'layer 0 .*has a "." component'):
        planned([Layer(content=b"x", title=".")])


@pytest.mark.parametrize(
    ("text", "mode"),
    [("0755", 0o555), ("755", 0o555), ("0010", 0o555), ("0644", 0o444), ("", 0o444), ("0o755", 0o444),
     ("4755", 0o444), ("04755", 0o444), ("755 ", 0o444), ("999", 0o444), ("\u0667" * 3, 0o444), ("7" * 5000, 0o444)],
    ids=lambda value: str(value)[:10],
)  # fmt: skip
def test_annotation_makes_a_file_executable_and_nothing_else(text: str, mode: int) -> None:
    found = planned([Layer(content=b"x", title="run", annotations={"land.oras.csi.mode": text})])
    assert found.entries[0].mode == mode


@pytest.mark.parametrize(
    ("title", "directory", "prefix"), [("dir", None, "dir"), ("above/dir", "above", "dir")], ids=["top", "deeper"]
)
def test_directory_of_oras_py_is_known_by_its_media_type(title: str, directory: str | None, prefix: str) -> None:
    one = archive(planned([Layer(content=b"tar", title=title, media_type=TAR_GZIP)]))
    assert one.directory == (None if directory is None else Name.parse(directory))
    assert (one.prefix, one.root, one.content) == (Name.parse(prefix), Name.parse(title), None)


@pytest.mark.parametrize("title", ["a.tar.gz", "a.tgz", "d/a.tar"])
def test_title_that_says_it_is_an_archive_is_a_file(title: str) -> None:
    assert names(planned([Layer(content=b"tar", title=title, media_type=TAR_GZIP)])) == [title]


@pytest.mark.parametrize("digest", ["", "sha256:short", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../x"])
def test_digest_of_the_content_that_is_none_is_refused(digest: str) -> None:
    packed = Layer(content=b"tar", title="d", annotations={**PACKED, "io.deis.oras.content.digest": digest})
    with pytest.raises(HostileContentError, match=r"layer 1 .*the digest of its content: "):
        planned([*titled("a"), packed])


def test_hostile_title_of_a_packed_directory_is_refused() -> None:
    with pytest.raises(HostileContentError, match=r'layer 0 .*has a ".." component'):
        planned([Layer(content=b"tar", title="a/..", annotations=PACKED)])


@pytest.mark.parametrize("selected", [{"unpack": False}, {"exclude": globs("dir")}, {"path": Name.parse("a")}], ids=str)
def test_packed_directory_is_shown_packed_or_left_out_as_asked(selected: dict[str, Any]) -> None:
    found = planned([*titled("a"), Layer(content=b"tar", title="dir", annotations=PACKED)], **selected)
    assert names(found) == (["a", "dir"] if selected == {"unpack": False} else ["a"])
    assert found.archives == ()


def test_annotation_that_says_it_is_not_packed_is_believed() -> None:
    assert names(planned([Layer(content=b"x", title="a", annotations={"io.deis.oras.content.unpack": "false"})])) == [
        "a"
    ]


# -- empty artifacts


@pytest.mark.parametrize(
    "layers",
    [[], [Layer(content=b"{}", media_type=EMPTY_TYPE)], [Layer(content=b"{}", media_type=EMPTY_TYPE, title="x")]],
    ids=["no layers", "the empty descriptor", "the empty descriptor with a title"],
)
@pytest.mark.parametrize("selected", [{}, {"include": globs("*.json")}], ids=["everything", "include"])
def test_artifact_of_nothing_is_a_volume_of_nothing(layers: list[Layer], selected: dict[str, Any]) -> None:
    found = planned(layers, **selected)
    assert (found.entries, found.size, found.blobs) == ((), 0, ())


def test_layer_without_bytes_is_an_empty_file() -> None:
    found = planned([Layer(content=b"", title="empty"), Layer(content=b"{}", title="braces")])
    assert [(str(entry.name), entry.blob.size) for entry in found.entries] == [("braces", 2), ("empty", 0)]


# -- messages

BAD_LAYERS = {
    "escape": titled("a\x1b[2J\n"),
    "override": titled("\u202ea"),
    "same name": titled("a\u2764", "a\u2764"),
    "file and directory": titled("\u00e4", "\u00e4/b"),
    "packed": [Layer(content=b"x", title="d", annotations={**PACKED, "io.deis.oras.content.digest": "x\n"})],
    "long": titled("x/" * 3000),
}


@pytest.mark.parametrize("layers", BAD_LAYERS.values(), ids=BAD_LAYERS.keys())
def test_message_names_artifact_and_layer_in_one_printable_line(layers: list[Layer]) -> None:
    with pytest.raises(CsiOrasError, match=rf"^{SUBJECT}, layers? 0") as caught:
        planned(layers)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    assert caught.value.remedy


def test_equal_selections_have_the_same_key_and_others_do_not() -> None:
    given: list[dict[str, Any]] = [
        *({}, {"include": globs("a")}, {"exclude": globs("a")}, {"path": Name.parse("a")}, {"unpack": False}),
        *({"media_types": frozenset({"a/b"})}, {"include": globs("a", "b")}, {"include": globs("a,b")}),
    ]
    assert len({Selection(**selected).key for selected in given}) == len(given)
    one, other = frozenset({"a/b", "c/d"}), frozenset({"c/d", "a/b"})
    assert Selection(media_types=one).key == Selection(media_types=other).key
