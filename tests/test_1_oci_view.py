"""A view refuses whatever would be written through, over or outside of what it has."""

import tracemalloc

import pytest

from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.view import ConflictError, Directory, File, Link, View

FILE, OTHER = File(Digest.of(b"1"), 1, 0o444), File(Digest.of(b"2"), 2, 0o555)


def name(text: str) -> Name:
    return Name.parse(text)


def names(view: View) -> dict[str, object]:
    return {"/".join(at): None if isinstance(node, Directory) else node for at, node in view.walk()}


def test_view_has_the_directories_of_its_names() -> None:
    view = View()
    view.add(name("a/b/c"), FILE)
    view.add(name("a/d"), Link("b/c"))
    assert names(view) == {"a": None, "a/b": None, "a/b/c": FILE, "a/d": Link("b/c")}
    assert (view.files, view.size) == (2, 1)


@pytest.mark.parametrize("second", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("first", [FILE, Link("x")])
def test_name_that_is_taken_is_refused(first: File | Link, second: str) -> None:
    view = View()
    view.add(name("a"), first)
    with pytest.raises(ConflictError):
        view.add(name(second), OTHER)
    with pytest.raises(ConflictError):
        view.add_directory(name(second))
    assert names(view) == {"a": first}


def test_directory_may_be_named_twice_and_is_no_place_for_a_file() -> None:
    view = View()
    view.add_directory(name("a/b"))
    view.add_directory(name("a/b"))
    with pytest.raises(ConflictError, match="is a directory already"):
        view.add(name("a"), FILE)
    assert names(view) == {"a": None, "a/b": None}


def test_later_layer_replaces_files_links_and_directories() -> None:
    base, layer = View(), View()
    base.add(name("file"), FILE)
    base.add(name("tree/below"), FILE)
    base.add(name("link"), Link("tree"))
    layer.add(name("file"), OTHER)
    layer.add(name("tree"), OTHER)
    layer.add_directory(name("link"))
    layer.add(name("link/new"), OTHER)
    base.merge(layer, replace=True)
    assert names(base) == {"file": OTHER, "tree": OTHER, "link": None, "link/new": OTHER}


def test_later_layer_does_not_write_through_a_link_of_an_earlier_one() -> None:
    base, layer = View(), View()
    base.add(name("link"), Link("elsewhere"))
    layer.add(name("link/new"), FILE)  # without an entry that makes it a directory
    with pytest.raises(ConflictError, match="written through"):
        base.merge(layer, replace=True)


def test_archives_of_one_artifact_do_not_replace_each_other() -> None:
    base, other = View(), View()
    base.add(name("a/b"), FILE)
    other.add(name("a/b"), OTHER)
    with pytest.raises(ConflictError, match='"a/b" is there twice'):
        base.merge(other, replace=False)


def test_whiteouts_take_away_with_everything_below() -> None:
    view = View()
    for text in ("a/b/c", "a/d", "e"):
        view.add(name(text), FILE)
    view.remove(name("a/b"))
    view.remove(name("not/there"))
    view.remove(name("e/no/directory"))
    assert names(view) == {"a": None, "a/d": FILE, "e": FILE}
    view.empty(name("a"))
    assert names(view) == {"a": None, "e": FILE}
    view.empty(None)
    assert names(view) == {}


def test_whiteout_through_a_link_is_refused() -> None:
    view = View()
    view.add(name("real/secret"), FILE)
    view.add(name("link"), Link("real"))
    with pytest.raises(ConflictError, match='through "link"'):
        view.remove(name("link/secret"))
    with pytest.raises(ConflictError, match='through "link"'):
        view.empty(name("link"))
    assert "real/secret" in names(view)


def test_root_of_a_view_may_be_a_directory_or_a_file_of_it() -> None:
    view = View()
    view.add(name("a/b/c"), FILE)
    assert names(view.rooted(name("a"))) == {"b": None, "b/c": FILE}
    assert not view.rooted(name("a")).is_file
    assert names(view.rooted(name("a/b/c"))) == {"c": FILE}
    assert view.rooted(name("a/b/c")).is_file
    assert names(view.rooted(name("x"))) == {}


def test_names_that_look_the_same_are_found_wherever_they_are() -> None:
    view = View()
    view.add(name("d/caf\u00e9/x"), FILE)
    assert view.look_alikes() is None
    view.add(name("d/cafe\u0301"), FILE)
    assert set(view.look_alikes() or ()) == {name("d/caf\u00e9"), name("d/cafe\u0301")}


def test_names_that_look_the_same_are_looked_for_without_a_copy_of_all() -> None:
    view = View()
    for number in range(20_000):
        view.add(name(f"\u00e9{number // 100}/{number}"), FILE)
    tracemalloc.start()
    try:
        assert view.look_alikes() is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
