"""Secrets of tests: none can be mistaken for anything else, so that one search finds each wherever it came out.

A password or token in a test is a name. What goes over the wire is `planted(name)`, which holds the mark of this
session; fakes and helpers that take a secret plant it by themselves. What cannot hold the mark is remembered.
"""

import base64
import re
import secrets
from collections.abc import Iterator

MARK = f"planted{secrets.token_hex(6)}"
"""Letters and digits only: URLs, JSON and shells leave it as it is."""
_LONG = 40
_remembered: set[str] = set()


def planted(name: str) -> str:
    """Return the secret of that name in this session; what is one already stays as it is, and so does none."""
    return name if MARK in name or not name else f"{MARK}-{name}"


def remember(secret: str) -> str:
    """Look for the long lines of a secret that cannot hold the mark, such as a key's, and return it."""
    _remembered.update(line for line in secret.splitlines() if len(line) >= _LONG and not line.startswith("--"))
    return secret


def search(content: bytes) -> Iterator[bytes]:
    """Yield what gives a secret away, in any of its spellings, each with what stands around it."""
    pattern = b"|".join(re.escape(spelling) for text in (MARK, *sorted(_remembered)) for spelling in _spellings(text))
    for match in re.finditer(pattern, content):
        yield content[max(0, match.start() - 100) : match.end() + 60]


def _spellings(text: str) -> Iterator[bytes]:
    """Yield a text as it is, in hexadecimal digits, and in base64 once (a Basic header) or twice (a Secret's data)."""
    plain = text.encode()
    yield plain
    yield plain.hex().encode()
    for once in _in_base64(plain):
        yield once
        yield once.translate(bytes.maketrans(b"+/", b"-_"))
        yield from _in_base64(once)


def _in_base64(plain: bytes) -> Iterator[bytes]:
    """Yield the characters that stand for `plain` whatever comes before and after it, at each of the three places."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + plain)
        yield encoded[-(-before * 8 // 6) : (before + len(plain)) * 8 // 6]
