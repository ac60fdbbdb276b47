"""The one glob syntax of attributes and policy: `*` and `?` within a segment, `**` across, the rest literal.

Any pod's author writes globs, so none may cost more than its length times the text's: a backtracking regular
expression would need years for some of them, and hold the interpreter's lock meanwhile.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_ACROSS = "**"
_REPEATED = re.compile(r"(?:\*\*/){2,}")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern over slash-separated text, cut into its tokens."""

    pattern: str
    _tokens: tuple[str, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """Read `pattern`; every text is one."""
        simple = _REPEATED.sub("**/", re.sub(r"\*{3,}", "**", pattern))
        return cls(pattern, tuple(_TOKENS.findall(simple)))

    def matches(self, text: str) -> bool:
        """Say whether the whole of `text` matches."""
        positions = {0}  # up to where the tokens so far can reach
        for token in self._tokens:
            positions = _advance(token, positions, text)
            if not positions:
                return False
        return len(text) in positions

    def reaches_below(self, directory: str) -> bool:
        """Say whether any name below `directory` can match."""
        text = f"{directory}/"
        positions = {0}
        for token in self._tokens:
            if len(text) in positions or token == _ACROSS:
                return True  # what is left of the pattern is for what is below
            if any(token.startswith(text[position:]) and position + len(token) > len(text) for position in positions):
                return True
            positions = _advance(token, positions, text)
            if not positions:
                return False
        return False


def _advance(token: str, positions: set[int], text: str) -> set[int]:
    match token:
        case "?":
            return {position + 1 for position in positions if text[position : position + 1] not in ("", "/")}
        case "*":
            return _reached(positions, text, _within_segment)
        case "**":
            return set(range(min(positions), len(text) + 1))
        case "**/":
            return _reached(positions, text, _segment_starts)
    return {position + len(token) for position in positions if text.startswith(token, position)}


def _reached(positions: set[int], text: str, reach: Callable[[int, str], Iterator[int]]) -> set[int]:
    found: set[int] = set()
    for position in sorted(positions):
        for reached in reach(position, text):
            if reached in found and reached != position:
                break  # an earlier position came by here and went on
            found.add(reached)
    return found


def _within_segment(position: int, text: str) -> Iterator[int]:
    end = text.find("/", position)
    return iter(range(position, (len(text) if end < 0 else end) + 1))


def _segment_starts(position: int, text: str) -> Iterator[int]:
    yield position
    while (slash := text.find("/", position)) > position:
        position = slash + 1
        yield position
