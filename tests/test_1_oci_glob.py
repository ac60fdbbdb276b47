"""Globs: what they mean, and that no pattern of a pod's author costs the node more than its length."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.oci.glob import Glob

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


REACHES = [
    ("a", "a", False),  # the directory, and nothing in it
    ("a/", "a", False),
    ("a/x", "a", True),
    ("a/b/x", "a", True),
    ("a/b/x", "a/b", True),
    ("a/b/x", "a/c", False),
    ("ab/x", "a", False),
    ("*/x", "a", True),
    ("*", "a", False),
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
def test_glob_reaches_below_what_it_may_match_in(pattern: str, directory: str, *, reaches: bool) -> None:
    assert Glob.parse(pattern).reaches_below(directory) == reaches


NAMES = st.lists(st.text(st.sampled_from("ab."), min_size=1, max_size=3), min_size=2, max_size=4).map("/".join)


@given(PATTERNS, NAMES)
def test_glob_reaches_below_every_directory_of_what_it_matches(pattern: str, name: str) -> None:
    glob = Glob.parse(pattern)
    if glob.matches(name):
        directories = [name[:end] for end, character in enumerate(name) if character == "/"]
        assert all(map(glob.reaches_below, directories))


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
