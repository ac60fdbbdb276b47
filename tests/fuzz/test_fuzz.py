"""A short run of the fuzzers, new examples every time; `make fuzz` is the long one, and keeps what it finds."""

import os
import unicodedata
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.fuzz import archives, honest, manifests

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
_MUTANTS = 10
_SHORT = settings(
    max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None
)


@pytest.fixture(scope="module")
def taken() -> Counter[tuple[str, bool]]:
    return Counter()


@_SHORT
@given(case=archives.cases(), seed=st.integers(0, 1 << 30))
def test_archive_of_any_bytes_is_refused_in_words_or_safe(
    taken: Counter[tuple[str, bool]], case: archives.Case, seed: int
) -> None:
    taken["archive", archives.check(case)] += 1
    for mutant in archives.mutants(case, seed, _MUTANTS):
        archives.check(mutant)


@_SHORT
@given(case=manifests.cases())
def test_manifest_of_any_content_is_refused_in_words_or_planned_safely(
    taken: Counter[tuple[str, bool]], case: manifests.Case
) -> None:
    taken["manifest", manifests.check(case)] += 1


@_SHORT
@given(tree=honest.trees, how=st.sampled_from(sorted(honest.FORMATS)))
def test_archive_of_an_honest_tree_comes_out_as_it_went_in(tree: dict[str, bytes], how: str) -> None:
    assume(not any(name.split("/")[0] == "links" for name in tree))
    assume(len({unicodedata.normalize("NFC", name) for name in tree}) == len(tree))
    try:
        data = honest.packed(tree, how)
    except (ValueError, UnicodeError):  # ustar has no room for long names
        assume(how != "ustar")
        raise
    links = {f"links/{number}": f"-> ../{name}" for number, name in enumerate(tree)}
    assert honest.unpacked(data) == tree | links


def test_fuzzers_reach_behind_the_refusals(taken: Counter[tuple[str, bool]]) -> None:
    """A fuzzer of which nothing is ever taken, or all of it, tests nothing."""
    for kind in ("archive", "manifest"):
        assert taken[kind, True] > _EXAMPLES // 20, taken
        assert taken[kind, False] > _EXAMPLES // 20, taken
