"""Digests: the only names of content, checked once and safe as a path component ever after."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol, Self

from csi_oras.errors import HostileContentError, UnsupportedContentError, printable

_GRAMMAR = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)")
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Hasher(Protocol):
    """What we use of a hashlib object."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far in lower-case hexadecimal."""

    def copy(self) -> "Hasher":
        """Return another one that has been given the same bytes."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """An algorithm of the allow-list (sha256, sha512) and its lower-case hexadecimal value."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `algorithm:encoded` as the OCI image specification writes it (descriptor.md, Digests).

        Raises:
            HostileContentError: not a digest by the grammar.
            UnsupportedContentError: an algorithm that is not on the allow-list.
        """
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise HostileContentError(f"digest {_quoted(text)}", "is not a digest", "push the artifact again")
        algorithm, encoded = match.groups()
        if algorithm not in _HEX_LENGTH:
            raise UnsupportedContentError(
                f"digest {_quoted(text)}",
                f"algorithm {printable(algorithm, 40)} is not supported",
                "use sha256",
            )
        if len(encoded) != _HEX_LENGTH[algorithm] or not _HEX.fullmatch(encoded):
            raise HostileContentError(
                f"digest {_quoted(text)}", f"must be {_HEX_LENGTH[algorithm]} lower-case hexadecimal digits"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the sha256 digest of `content`."""
        return cls("sha256", hashlib.sha256(content).hexdigest())

    def hasher(self) -> Hasher:
        """Return a fresh hash object of this digest's algorithm."""
        return hashlib.sha256() if self.algorithm == "sha256" else hashlib.sha512()

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.encoded[:12]


def _quoted(text: object) -> str:
    return f'"{printable(text, 80)}"' if isinstance(text, str) else f"of type {type(text).__name__}"
