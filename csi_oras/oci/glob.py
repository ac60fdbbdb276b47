"""The one glob syntax of attributes and policy: `*` and `?` within a segment, `**` across, the rest literal.

Any pod's author writes globs, and an archive's author the names that they are tried on, so none may cost more than
a few machine words for each character of a name: a backtracking regular expression would need years for some of
them, and hold the interpreter's lock meanwhile. So all places that a text may have reached in all patterns are the
bits of one number, and a character moves them at once (Navarro and Raffinot, Flexible Pattern Matching in Strings, 4).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

_TOKENS = re.compile(r"\*\*/|\*\*|.", re.DOTALL)
_REPEATED = re.compile(r"(?:\*\*/){2,}")
_MOST_REMEMBERED = 1000

_State = tuple[int, int]
"""The places that a text may have reached, and those of `**/` that it has left for a segment without an end yet."""


class _Automaton:
    """Patterns side by side: a place is a bit, and a character leads from it to the next one or lets it stay."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._moves: dict[str, int] = {}
        self._any = self._within = self._across = self._segments = 0
        starts = self._ends = 0
        place = 1
        for pattern in patterns:
            starts |= place
            place = self._add(pattern, place)
            self._ends |= place
            place <<= 1
        self._moves = {character: bits if character == "/" else bits | self._any
                       for character, bits in self._moves.items()}  # fmt: skip
        self.start: _State = (starts, 0)

    def _add(self, pattern: str, place: int) -> int:
        """Add a pattern that begins at `place`, and return where it ends."""
        simple = _REPEATED.sub("**/", re.sub(r"\*{3,}", "**", pattern))
        for token in _TOKENS.findall(simple):
            match token:
                case "*":
                    self._within |= place
                case "**":
                    self._within |= place
                    self._across |= place
                case "**/":
                    self._segments |= place
                case "?":
                    self._any |= place
                    place <<= 1
                case _:
                    self._moves[token] = self._moves.get(token, 0) | place
                    place <<= 1
        return place

    def advance(self, state: _State, text: str) -> _State:
        """Return the state behind `text`."""
        places, left = state
        for character in text:
            if character == "/":
                places = (places & self._moves.get("/", 0)) << 1 | places & self._across | left
                left = 0
            else:
                left |= places & self._segments
                places = (places & self._moves.get(character, self._any)) << 1 | places & self._within
            if not places and not left:
                break
        return places, left

    def accepts(self, state: _State) -> bool:
        """Say whether a pattern may end here."""
        return bool(state[0] & self._ends)

    def goes_on(self, state: _State) -> bool:
        """Say whether a pattern may match more text than there was."""
        places, left = state
        return bool(left or places & (~self._ends | self._within | self._segments))


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern over slash-separated text."""

    pattern: str
    _automaton: _Automaton = field(repr=False, compare=False)

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """Read `pattern`; every text is one."""
        return cls(pattern, _Automaton([pattern]))

    def matches(self, text: str) -> bool:
        """Say whether the whole of `text` matches."""
        return self._automaton.accepts(self._automaton.advance(self._automaton.start, text))


class Globs:
    """Several globs over names, tried at once; one that matches a directory stands for everything below it."""

    def __init__(self, globs: Iterable[Glob]) -> None:
        self._automaton = _Automaton(glob.pattern for glob in globs)
        self._remembered: dict[tuple[str, ...], _State | None] = {(): self._automaton.start}

    def cover(self, components: tuple[str, ...]) -> bool:
        """Say whether a glob matches a name or a directory above it."""
        state = self._below(components[:-1])
        return state is None or self._automaton.accepts(self._automaton.advance(state, components[-1]))

    def reach_below(self, components: tuple[str, ...]) -> bool:
        """Say whether any name below a directory can be covered."""
        state = self._below(components)
        return state is None or self._automaton.goes_on(state)

    def _below(self, directory: tuple[str, ...]) -> _State | None:
        """Return the state behind a directory and its slash, None where it is covered; archives come by directory."""
        remembered = self._remembered  # another thread may begin a new one
        if directory in remembered:
            return remembered[directory]
        state = self._below(directory[:-1])
        if state is not None:
            state = self._automaton.advance(state, directory[-1])
            state = None if self._automaton.accepts(state) else self._automaton.advance(state, "/")
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered = {(): self._automaton.start}
        self._remembered[directory] = state
        return state
