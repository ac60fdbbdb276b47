"""Globs: what they mean, and that no pattern of a pod's author costs the node more than its length."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.oci.glob import Glob, Globs

MEANINGS = [
    ("a", "a", True),
    ("a", "ab", False),
    ("a", "A", False),
    ("", "", True),
    ("", "a", False),
    ("*", "", True),
    ("*", "a.b", True),
    ("*", "a/b", False),
    ("*.json", "x.json", True),
    ("*.json", ".json", True),
    ("*.json", "d/x.json", False),
    ("*.json", "x.json.bak", False),
    ("d/*", "d/x", True),
    ("d/*", "d/", True),
    ("d/*", "d", False),
    ("d/*", "d/x/y", False),
    ("d/**", "d/x/y", True),
    ("d/**", "d", False),
    ("d**", "d/x", True),
    ("**", "a/b/c", True),
    ("**", "", True),
    ("**/x", "x", True),
    ("**/x", "a/x", True),
    ("**/x", "a/b/x", True),
    ("**/x", "ax", False),
    ("a/**/x", "a/x", True),
    ("a/**/x", "a/b/c/x", True),
    ("a/**/x", "ab/x", False),
    ("**/*.json", "a/b.json", True),
    ("**/*.json", "b.json", True),
    ("**/a/**/b", "x/a/y/z/b", True),
    ("**/**/**/x", "a/x", True),
    ("****", "a/b", True),
    ("?", "a", True),
    ("?", "", False),
    ("?", "/", False),
    ("a?c", "abc", True),
    ("*a*b", "xaxbxb", True),
    ("**a*b", "a/ab", True),  # the first a is a dead end
    ("**a*b", "a/xb", False),
    ("ghcr.io/acme/**", "ghcr.io/acme/x/y", True),
    ("ghcr.io/acme/**", "ghcr.io/acmee/x", False),
    ("ghcr.io/*", "ghcrxio/y", False),
    # no other character means anything
    ("[ab]", "a", False),
    ("[ab]", "[ab]", True),
    ("{a,b}", "{a,b}", True),
    ("a+", "aa", False),
    ("(a)", "(a)", True),
    ("a|b", "a|b", True),
    ("^a$", "a", False),
    ("\\*", "*", False),
    ("\\*", "\\x", True),
    ("a\nb", "a\nb", True),
    ("*", "a\nb", True),
    ("\u00e9*", "\u00e9t\u00e9", True),
]


@pytest.mark.parametrize(("pattern", "text", "matches"), MEANINGS)
def test_glob_matches_as_it_should(pattern: str, text: str, *, matches: bool) -> None:
    assert Glob.parse(pattern).matches(text) == matches


PATTERNS = st.lists(st.sampled_from(["*", "**", "**/", "?", "/", "a", "b", "ab", "."]), max_size=7).map("".join)
TEXTS = st.text(st.sampled_from("ab/."), max_size=10)
EXPRESSIONS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@given(PATTERNS, TEXTS)
def test_glob_matches_what_the_same_regular_expression_matches(pattern: str, text: str) -> None:
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", re.sub(r"\*{3,}", "**", pattern))
    expression = "".join(EXPRESSIONS.get(token, re.escape(token)) for token in tokens)
    assert Glob.parse(pattern).matches(text) == (re.fullmatch(expression, text) is not None)


def globs(*patterns: str) -> Globs:
    return Globs(map(Glob.parse, patterns))


REACHES = [
    ("a", "a", True),  # the directory stands for everything in it
    ("a/", "a", False),
    ("a/x", "a", True),
    ("a/b/x", "a", True),
    ("a/b/x", "a/b", True),
    ("a/b/x", "a/c", False),
    ("ab/x", "a", False),
    ("*/x", "a", True),
    ("*", "a", True),
    ("*", "a/b", True),
    ("*.md", "a", False),
    ("**/*.md", "a", True),
    ("a/**", "a/b/c", True),
    ("b/**", "a", False),
    ("b**", "a", False),
    ("a/*/x", "a/b", True),
    ("a/*/x", "a/b/c", False),
    ("?/x", "a", True),
    ("?/x", "ab", False),
    ("", "a", False),
]


@pytest.mark.parametrize(("pattern", "directory", "reaches"), REACHES)
def test_globs_reach_below_what_they_may_cover(pattern: str, directory: str, *, reaches: bool) -> None:
    assert globs(pattern).reach_below(tuple(directory.split("/"))) == reaches


NAMES = st.lists(st.text(st.sampled_from("ab."), min_size=1, max_size=3), min_size=2, max_size=4).map("/".join)


@given(PATTERNS, NAMES)
def test_globs_reach_below_every_directory_of_what_they_match(pattern: str, name: str) -> None:
    if Glob.parse(pattern).matches(name):
        components = tuple(name.split("/"))
        assert all(globs(pattern).reach_below(components[:depth]) for depth in range(1, len(components)))


@given(st.lists(PATTERNS, max_size=4), st.lists(NAMES, max_size=6))
def test_globs_cover_what_one_of_them_matches_or_has_a_directory_of(patterns: list[str], names: list[str]) -> None:
    together = globs(*patterns)
    for name in names:
        components = tuple(name.split("/"))
        ways = ["/".join(components[:depth]) for depth in range(1, len(components) + 1)]
        expected = any(Glob.parse(pattern).matches(way) for pattern in patterns for way in ways)
        assert together.cover(components) == expected


def test_globs_are_right_about_more_directories_than_they_remember() -> None:
    together = globs("**/yes", "c1")
    for _ in range(2):
        for number in range(3000):
            assert together.cover((f"d{number}", "yes"))
            assert not together.cover((f"d{number}", "no"))
        assert together.cover(("c1", "x"))


_LONGEST = 4096
"""Characters that an attribute may have."""


@pytest.mark.parametrize(
    "pattern",
    ["**a" * (_LONGEST // 3), "**/?" * (_LONGEST // 4), "**/a/" * (_LONGEST // 5), "**?" * (_LONGEST // 3) + "b"],
)
def test_globs_of_many_stars_cost_little_over_many_deep_names(pattern: str) -> None:
    together, deep = globs(pattern), ("a",) * 58
    began = time.process_time()
    for number in range(10_000):
        together.cover((str(number), *deep, "a.json"))
        together.reach_below((str(number), *deep))
    assert time.process_time() - began < 10  # where each name took seconds


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*a" * 100 + "b", "a" * 255),
        ("**/" * 100 + "x", "a/" * 63 + "b"),
        ("**a" * 100 + "b", "a/" * 120),
        ("**/*" * 50 + "b", "aa/" * 60 + "a"),
        ("*?" * 100 + "/", "a" * 255),
    ],
)
def test_glob_that_would_backtrack_for_years_is_decided_at_once(pattern: str, text: str) -> None:
    began = time.monotonic()
    assert not Glob.parse(pattern).matches(text)
    assert time.monotonic() - began < 5  # a regular expression takes longer than the universe has


def test_globs_of_one_pattern_are_equal_and_show_it() -> None:
    assert Glob.parse("a/*") == Glob.parse("a/*")
    assert hash(Glob.parse("a/*")) == hash(Glob.parse("a/*"))
    assert Glob.parse("a/*") != Glob.parse("a/**")
    assert repr(Glob.parse("a/*")) == "Glob(pattern='a/*')"
