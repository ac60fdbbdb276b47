"""Names: every hostile title of the corpus is refused with its reason, every harmless one is taken as it is."""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.errors import HostileContentError
from csi_oras.oci.name import Name, UnsafeNameError
from csi_oras.oci.plan import Plan
from tests.support import planning
from tests.support.artifacts import Layer, sha256

CORPUS = Path(__file__).parent / "corpus" / "names.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A title, the row of the threat model that it is from, and what becomes of it."""

    row: str
    name: str
    title: str | None
    verdict: str
    reason: str = ""


ROWS = [Row(**row) for row in json.loads(CORPUS.read_text())]


def planned(title: str | None) -> Plan:
    return planning.planned(planning.artifact([Layer(content=b"alpha", title=title)]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.row} {row.name}")
def test_title_of_the_corpus_has_its_verdict(row: Row) -> None:
    if row.verdict == "refuse":
        with pytest.raises(HostileContentError, match=row.reason) as caught:
            planned(row.title)
        message = caught.value.message
        assert message.startswith(f"reg.example/t/x:v1, layer 0 ({sha256(b'alpha')[7:19]}): title ")
        assert message.isprintable()
    else:
        expected = row.title if row.verdict == "name" else "sha256-" + sha256(b"alpha")[7:]
        entries = planned(row.title).entries
        assert [str(entry.name) for entry in entries] == [expected]
        assert [entry.rule for entry in entries] == ["title" if row.verdict == "name" else "digest"]


def test_corpus_holds_every_row_on_names_and_both_kinds_of_controls() -> None:
    rows = {row.row for row in ROWS}
    assert rows >= {f"A{number}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 18, 19, 22)}
    assert {row.verdict for row in ROWS if row.row == "control"} == {"name", "refuse"}


BIDIRECTIONAL_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(st.characters(exclude_categories=())))
def test_name_that_is_taken_is_plainly_inside_whatever_the_text(text: str) -> None:
    try:
        name = Name.parse(text)
    except UnsafeNameError:
        return
    assert str(name) == text
    assert not set(name.components) & {"", ".", ".."}
    assert not {unicodedata.category(character) for character in text} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(character) for character in text} & BIDIRECTIONAL_CONTROLS
    assert (Path("/root-of-view") / text).parts == ("/", "root-of-view", *name.components)


SPECIAL = st.sampled_from(["..", ".", "", "a", "b.c", "\\", ":", "\0", "\u202e", ".wh.a", ".oci", "x" * 256])


@given(st.lists(SPECIAL, min_size=1, max_size=6))
def test_name_of_components_is_taken_only_if_each_of_them_is_plain(components: list[str]) -> None:
    plain = all(
        component in ("a", "b.c") or (component == ".oci" and number) for number, component in enumerate(components)
    )
    try:
        Name.parse("/".join(components))
    except UnsafeNameError:
        assert not plain
    else:
        assert plain


def test_name_below_a_directory_is_the_rest_and_never_a_sibling() -> None:
    name = Name.parse("a/b/c")
    assert name.below(Name.parse("a")) == Name.parse("b/c")
    assert name.below(Name.parse("a/b")) == Name.parse("c")
    assert [name.below(Name.parse(other)) for other in ("a/b/c", "b", "a/bb", "a/b/c/d")] == [None] * 4


def test_name_joined_is_held_to_the_limits_of_the_whole() -> None:
    assert Name.parse("a/b").joined(Name.parse("c/d")) == Name.parse("a/b/c/d")
    deep, long = Name(("d",) * 32), Name(("x" * 255,) * 7)
    assert len(deep.joined(deep).components) == 64
    with pytest.raises(UnsafeNameError, match='deeper than 64 directories in "d/d/'):
        deep.joined(Name.parse("e").joined(deep))
    assert len(str(long.joined(long))) == 3583
    with pytest.raises(UnsafeNameError, match='longer than 3584 bytes in "xxx'):
        long.joined(Name.parse("ab").joined(long))


def test_name_parents_are_the_directories_outermost_first() -> None:
    assert [str(parent) for parent in Name.parse("a/b/c").parents] == ["a", "a/b"]
    assert Name.parse("a").parents == []


def test_name_normalised_is_the_same_for_what_looks_the_same() -> None:
    assert Name.parse("e\u0301").normalised == Name.parse("\u00e9").normalised
    assert Name.parse("e\u0301") != Name.parse("\u00e9")
