"""Durations as Go writes them: `12h`, `1h30m`, `1.5s`, `250ms`."""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(rf"([0-9]{{1,18}}(?:\.[0-9]{{0,18}})?|\.[0-9]{{1,18}})({'|'.join(_UNITS)})")
_LONGEST = 100


def parse_duration(text: str) -> float:
    """Return the seconds of a duration that is not negative.

    Raises:
        ValueError: it is none.
    """
    if text in ("0", "+0"):
        return 0.0
    rest, seconds = text.removeprefix("+"), 0.0
    if not rest or len(rest) > _LONGEST:
        raise ValueError("no duration")
    while rest:
        match = _PART.match(rest)
        if match is None:
            raise ValueError("no duration")
        seconds += float(match[1]) * _UNITS[match[2]]
        rest = rest[match.end() :]
    return seconds
