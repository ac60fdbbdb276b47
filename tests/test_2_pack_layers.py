"""Layers: what is reused, what is a layer of its own, and what is packed together."""

from collections.abc import Sequence
from typing import Any

import pytest

from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.glob import Glob
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression, Plan, PlanArchive
from csi_oras.oci.selection import Selection
from csi_oras.pack.found import Change, Kept, Whiteout
from csi_oras.pack.layers import LARGE_BYTES, LayerPlan, PackedDirectory, Reused, WholeFile, plan_layers
from csi_oras.pack.merge import merge
from tests.support.artifacts import FILE_TYPE, Layer, files, sha256
from tests.support.changes import BASE, UPPER, a_directory, a_file, a_link, at, listed
from tests.support.planning import artifact, planned

EVERYTHING = Selection()
TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MODE = "land.oras.csi.mode"


def packed(title: str, content: bytes = b"tar") -> Layer:
    return Layer(content=content, title=title, media_type=TAR_GZIP, annotations={"io.deis.oras.content.unpack": "true"})


def layers(
    base: Sequence[Layer],
    tree: list[Change],
    written: list[Change],
    most_files: int = 100,
    pushed: Selection = EVERYTHING,
    **selected: Any,
) -> list[LayerPlan]:
    plan = planned(artifact(base), **selected) if base else Plan()
    merged = merge(listed(tree, BASE), listed(written, UPPER), pushed)
    return plan_layers(merged, plan, most_files)


def told(found: list[LayerPlan]) -> list[str]:
    """Each layer in one word for what it is, and its title; what is packed with all its members."""
    lines = []
    for layer in found:
        match layer:
            case Reused():
                lines.append(f"reused {layer.title}")
            case WholeFile():
                lines.append(f"file {layer.title}")
            case PackedDirectory():
                lines.append(f"packed {layer.title}: {' '.join(str(name) for name, _ in layer.members)}")
    return lines


D = at("d", a_directory(UPPER))


def test_file_is_a_layer_of_its_own_in_the_order_of_titles() -> None:
    found = layers(
        [], [], [at("b", a_file(UPPER)), D, at("d/x", a_file(UPPER, executable=True)), at("a", a_file(UPPER))]
    )
    assert told(found) == ["file a", "file b", "file d/x"]
    assert [layer.annotations for layer in found if isinstance(layer, WholeFile)] == [
        {"org.opencontainers.image.title": "a"},
        {"org.opencontainers.image.title": "b"},
        {"org.opencontainers.image.title": "d/x", MODE: "0755"},
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([D], ["packed d: d"]),
        ([D, at("d/e", a_directory(UPPER)), at("d/x", a_file(UPPER))], ["packed d: d/e d/x"]),
        ([D, at("d/l", a_link(UPPER, "x")), at("d/x", a_file(UPPER)), at("y", a_file(UPPER))],
         ["packed d: d/l d/x", "file y"]),
        ([D, at("d/l", a_link(UPPER, "../y")), at("d/x", a_file(UPPER))], ["packed .: d/l", "file d/x"]),
        ([D, at("d/l", a_link(UPPER, ".."))], ["packed .: d/l"]),
        ([D, at("d/l", a_link(UPPER, "."))], ["packed d: d/l"]),
        ([at("l", a_link(UPPER, "x")), at("x", a_file(UPPER))], ["packed .: l", "file x"]),
        ([D, at("d/l", a_link(UPPER, "x")), at("d/x", a_file(UPPER, LARGE_BYTES))], ["packed d: d/l", "file d/x"]),
    ],
    ids=["empty directory", "deeper", "link", "link to beside", "link to the root", "link to here", "link at the root",
         "large file"],
)  # fmt: skip
def test_directory_that_is_not_only_files_is_packed(written: list[Change], expected: list[str]) -> None:
    assert told(layers([], [], written)) == expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (5, ["file d/1", "file d/2", "file d/3", "file e/1", "file x"]),
        (4, ["packed d: d/1 d/2 d/3", "file e/1", "file x"]),
        (3, ["packed d: d/1 d/2 d/3", "file e/1", "file x"]),
        (2, ["packed .: d/1 d/2 d/3 e/1 x"]),
        (0, ["packed .: d/1 d/2 d/3 e/1 x"]),
    ],
)
def test_directories_are_packed_where_files_are_too_many_and_all_in_one_where_directories_are(
    most: int, expected: list[str]
) -> None:
    written = [at(name, a_file(UPPER)) for name in ("x", "e/1", "d/1", "d/2", "d/3")]
    assert told(layers([], [], written, most)) == expected
    assert told(layers([], [], [*written, at("large", a_file(UPPER, LARGE_BYTES))], most)) == sorted(
        [*expected, "file large"], key=lambda line: line.split()[1].rstrip(":")
    )


def test_ten_thousand_directories_of_a_file_each_are_one_layer() -> None:
    written = [at(f"d{number}/x", a_file(UPPER)) for number in range(10_000)]
    (packed_root,) = layers([], [], written)
    assert isinstance(packed_root, PackedDirectory)
    assert len(packed_root.members) == 10_000
    tree = [at(f"d{number}/x", a_file(BASE)) for number in range(10_000)]
    (again,) = layers([packed(".")], tree, [at("d0/x", a_file(UPPER))])
    assert isinstance(again, PackedDirectory)
    assert again.title == "."


def test_long_name_counts_for_more_than_one_file() -> None:
    long = "/".join(["n" * 200] * 10)
    assert told(layers([], [], [at(f"d/{long}", a_file(UPPER))], 8)) == [f"file d/{long}"]
    assert told(layers([], [], [at(f"d/{long}", a_file(UPPER))], 7)) == [f"packed d: d/{long}"]


# -- over a base of files


def test_file_that_nobody_touched_keeps_its_descriptor() -> None:
    base = [*files(a=b"1", b=b"2"), Layer(content=b"3", title="c", media_type="a/b", annotations={"k": "v"})]
    tree = [at(name, a_file(BASE)) for name in "abc"]
    found = layers(base, tree, [at("a", a_file(UPPER)), at("b", Whiteout())])
    assert told(found) == ["file a", "reused c"]
    whole, reused = found
    assert isinstance(reused, Reused)
    assert reused.descriptor.to_json() == base[2].descriptor()
    assert isinstance(whole, WholeFile)
    assert whole.before
    assert str(whole.before.digest) == sha256(b"1")


@pytest.mark.parametrize(
    ("layer", "selected", "title", "media_type"),
    [
        (Layer(content=b"x"), {}, sha256(b"x").replace(":", "-"), FILE_TYPE),
        (Layer(content=b"x", title="d/x"), {"path": Name.parse("d")}, "x", FILE_TYPE),
        (packed("x"), {"unpack": False}, "x", FILE_TYPE),
        (Layer(content=b"x", title="x", media_type=TAR_GZIP), {"unpack": False}, "x", FILE_TYPE),
    ],
    ids=["untitled", "below path", "packed and not unpacked", "packed by oras-py and not unpacked"],
)
def test_reused_file_reads_as_the_same_file_under_its_title(
    layer: Layer, selected: dict[str, Any], title: str, media_type: str
) -> None:
    (found,) = layers([layer], [at(title, a_file(BASE))], [], **selected)
    assert isinstance(found, Reused)
    document = found.descriptor.to_json()
    assert document == {
        "mediaType": media_type,
        "digest": sha256(layer.content),
        "size": len(layer.content),
        "annotations": {"org.opencontainers.image.title": title},
    }


def test_metadata_of_the_base_is_not_pushed() -> None:
    found = layers(files(a=b"1"), [at("a", a_file(BASE))], [at("b", a_file(UPPER))], metadata=True)
    assert told(found) == ["reused a", "file b"]


def test_directory_whose_files_are_deleted_is_packed_as_an_empty_one() -> None:
    tree = [at("d", a_directory(BASE)), at("d/a", a_file(BASE))]
    base = [Layer(content=b"1", title="d/a"), packed(".")]
    assert told(layers(base, tree, [D, at("d/a", Whiteout())])) == ["reused .", "packed d: d"]


def test_layers_of_the_base_take_the_room_of_new_ones_and_may_be_more_than_there_is_room_for() -> None:
    tree = [at(name, a_file(BASE)) for name in ("a", "b", "d/1")]
    base = [*files(a=b"1", b=b"2"), Layer(content=b"3", title="d/1")]
    more = [D, at("d/2", a_file(UPPER)), at("d/3", a_file(UPPER))]
    assert told(layers(base, tree, more, 5)) == ["reused a", "reused b", "reused d/1", "file d/2", "file d/3"]
    assert told(layers(base, tree, more, 4)) == ["reused a", "reused b", "packed d: d/2 d/3", "reused d/1"]
    assert told(layers(base, tree, [at("a", a_file(UPPER))], 1)) == ["file a", "reused b", "reused d/1"]


# -- over a base of packed directories


TREE = [at("d", a_directory(BASE)), at("d/a", a_file(BASE)), at("d/e", a_directory(BASE)), at("f", a_file(BASE))]
PACKED = [packed("d"), *files(f=b"1")]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([], ["reused d", "reused f"]),
        ([at("f", Whiteout())], ["reused d"]),
        ([D, at("d/b", a_file(UPPER))], ["reused d", "file d/b", "reused f"]),
        ([D, at("d/a", a_file(UPPER))], ["packed d: d/a d/e", "reused f"]),
        ([D, at("d/a", a_file(UPPER, LARGE_BYTES))], ["packed d: d/e", "file d/a", "reused f"]),
        ([D, at("d/e", Whiteout())], ["packed d: d/a", "reused f"]),
        ([D, at("d/a", a_file(UPPER)), at("d/e", Whiteout())], ["packed d: d/a", "reused f"]),
        ([D, at("d/l", a_link(UPPER, "a"))], ["packed d: d/a d/e d/l", "reused f"]),
        ([D, at("d/l", a_link(UPPER, "../f"))], ["packed .: d/l", "reused d", "reused f"]),
        ([at("d", Whiteout())], ["reused f"]),
        ([at("d", a_file(UPPER))], ["file d", "reused f"]),
    ],
    ids=["nothing", "beside", "added", "changed", "and large", "deleted", "all new", "link added", "link out", "gone",
         "file"],
)  # fmt: skip
def test_packed_directory_is_reused_unless_something_of_it_is_lost(written: list[Change], expected: list[str]) -> None:
    assert told(layers(PACKED, TREE, written)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("f", ["reused d"]), ("x", ["reused d", "reused f"]), ("d", ["reused f"]), ("d/e", ["packed d: d/a", "reused f"]),
     ("d/*", ["packed d: d", "reused f"])],
)  # fmt: skip
def test_layer_is_reused_if_all_of_it_is_selected(pattern: str, expected: list[str]) -> None:
    selection = Selection(exclude=(Glob.parse(pattern),))
    assert told(layers(PACKED, TREE, [at("x", a_file(UPPER))] if pattern == "x" else [], pushed=selection)) == expected


def test_layers_below_a_directory_that_nobody_looked_into_are_not_reused() -> None:
    base = [*PACKED, Layer(content=b"1", title="d/e/x"), *files(g=b"2")]
    tree = [at("d", a_directory(BASE)), at("f", a_file(BASE)), at("g", a_file(BASE))]
    found = layers(base, tree, [], pushed=Selection(include=(Glob.parse("f"),)))
    assert told(found) == ["reused f"]


def test_packed_directories_that_overlap_are_reused_together_or_not_at_all() -> None:
    tree = [*TREE, at("d/e/x", a_file(BASE)), at("g", a_directory(BASE)), at("g/x", a_file(BASE))]
    base = [packed("d"), packed("d/e", b"inner"), packed("g", b"other"), *files(f=b"1")]
    found = layers(base, tree, [D, at("d/a", a_file(UPPER))])
    assert told(found) == ["packed d: d/a d/e/x", "reused f", "reused g"]


def test_file_beside_packed_ones_that_is_a_layer_of_its_own_is_reused_when_they_are_not() -> None:
    base = [packed("d"), Layer(content=b"1", title="d/x")]
    tree = [at("d", a_directory(BASE)), *(at(f"d/{name}", a_file(BASE)) for name in "abx")]
    assert told(layers(base, tree, [D, at("d/x", Whiteout())])) == ["reused d"]
    assert told(layers(base, tree, [D, at("d/a", a_file(UPPER))])) == ["packed d: d/a d/b", "reused d/x"]


@pytest.mark.parametrize(
    "selected", [{"exclude": (Glob.parse("d/b"),)}, {"path": Name.parse("d")}], ids=["exclude", "path"]
)
def test_packed_directory_of_which_only_a_part_was_shown_is_not_reused(selected: dict[str, Any]) -> None:
    shown = [at("a", a_file(BASE))] if "path" in selected else TREE
    found = layers([packed("d")], shown, [], **selected)
    assert not any(isinstance(layer, Reused) for layer in found)


def test_directory_that_nobody_looked_into_is_reused_or_nothing_is_made_of_it() -> None:
    tree = [at("d", Kept())]
    assert told(layers(PACKED, [*tree, at("f", a_file(BASE))], [])) == ["reused d", "reused f"]
    with pytest.raises(RuntimeError, match="nobody has looked into"):
        layers(PACKED, tree, [at("d", a_file(UPPER))])


def test_layers_of_an_image_are_packed_anew_as_directories() -> None:
    blob = Descriptor.of(b"tar", TAR_GZIP)
    archive = PlanArchive(blob=blob, layer=0, rule="image layer", compression=Compression.GZIP, is_image_layer=True)
    merged = merge(
        [*TREE, at("g", a_directory(BASE)), at("g/x", a_file(BASE))], [at("new", a_file(UPPER))], Selection()
    )
    found = plan_layers(merged, Plan(archives=(archive,)), 100)
    assert told(found) == ["packed d: d/a d/e", "file f", "packed g: g/x", "file new"]
