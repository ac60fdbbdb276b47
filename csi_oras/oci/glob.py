"""The one glob syntax of attributes and policy: `*` and `?` within a segment, `**` across, the rest literal."""

import re
from dataclasses import dataclass, field
from typing import Self

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled pattern over slash-separated text."""

    pattern: str
    _regex: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, pattern: str) -> Self:
        """Compile `pattern`; every text is one."""
        parts = (_MEANING.get(token, re.escape(token)) for token in _TOKENS.findall(re.sub(r"\*{3,}", "**", pattern)))
        return cls(pattern, re.compile("".join(parts), re.DOTALL))

    def matches(self, text: str) -> bool:
        """Say whether the whole of `text` matches."""
        return self._regex.fullmatch(text) is not None
