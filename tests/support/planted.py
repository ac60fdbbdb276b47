"""Secrets of tests: none can be mistaken for anything else, so that one search finds each wherever it came out.

A password or token in a test is a name. What goes over the wire is `planted(name)`, which holds the mark of this
session; fakes and helpers that take a secret plant it by themselves. What cannot hold the mark is remembered.
"""

import base64
import secrets
from collections.abc import Iterator

MARK = f"planted{secrets.token_hex(6)}"
"""Letters and digits only: URLs, JSON and shells leave it as it is."""
_remembered: set[bytes] = set()


def planted(name: str) -> str:
    """Return the secret of that name in this session; what is one already stays as it is, and so does none."""
    return name if MARK in name or not name else f"{MARK}-{name}"


def remember(key: str) -> None:
    """Look for a private key, which cannot hold the mark: for its second line of text, which is all its own."""
    _remembered.add(key.splitlines()[2].encode())


def search(content: bytes) -> Iterator[bytes]:
    """Yield what gives a secret away, in any of its spellings, each with what stands around it."""
    for spelling in {*_spellings(MARK.encode()), *_remembered}:
        if (place := content.find(spelling)) >= 0:
            yield content[max(0, place - 100) : place + len(spelling) + 60]


def _spellings(plain: bytes) -> Iterator[bytes]:
    """Yield a text as it is, in hexadecimal digits, and in base64 once (a Basic header) or twice (a Secret's data)."""
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
