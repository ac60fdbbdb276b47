"""The WWW-Authenticate header (RFC 9110, 11.6.1): what a registry wants to see."""

import re
from dataclasses import dataclass, field

_LONGEST = 8192
_PIECE = re.compile(
    r'\s*,*\s*(?P<key>[A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+)))?'
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A scheme in lower case and its parameters."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(header: str) -> list[Challenge]:
    """Return the challenges of a header; what cannot be read ends the list."""
    challenges: list[Challenge] = []
    position = 0
    header = header[:_LONGEST]
    while position < len(header):
        match = _PIECE.match(header, position)
        if match is None or match.end() == position:
            break
        position = match.end()
        value = match["bare"] if match["quoted"] is None else re.sub(r"\\(.)", r"\1", match["quoted"])
        if value is None:
            challenges.append(Challenge(match["key"].lower()))
        elif challenges:
            challenges[-1].parameters.setdefault(match["key"].lower(), value)
    return challenges
