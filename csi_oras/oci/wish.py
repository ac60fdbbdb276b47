"""Wishes: what a node should have before a pod asks for it, one reference or the tags that a glob matches."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Reference, Repository

_PATTERN = re.compile(r"[a-zA-Z0-9_.*?-]{1,128}")
_NUMBERS = re.compile(r"([0-9]+)")
_OF_OTHERS = re.compile(r"sha(256|512)-[0-9a-f]{64}.*")
"""Tags under which signatures and referrers are kept; no glob means these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One wish: a reference as pods write it, or a glob over the tags of a repository."""

    wanted: Reference | Glob
    repository: Repository

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `registry/repository[:tag][@digest]`, or `registry/repository:v*` with `*` and `?` in the tag.

        Raises:
            InvalidRequestError: it is neither.
        """
        if not {"*", "?"} & set(text):
            reference = Reference.parse(text)
            return cls(wanted=reference, repository=reference.repository)
        name, colon, pattern = text.rpartition(":")
        if not colon or {"*", "?"} & set(name) or not _PATTERN.fullmatch(pattern):
            cause = "has a glob, and not in its tag alone"
            raise InvalidRequestError(f'wish "{printable(text, 120)}"', cause, "write it as registry/repository:v*")
        return cls(wanted=Glob.parse(pattern), repository=Reference.parse(f"{name}:latest").repository)

    def picks(self, tag: str) -> bool:
        """Say whether a tag of the repository is wished for."""
        if isinstance(self.wanted, Reference):
            return tag == self.wanted.tag
        return self.wanted.matches(tag) and not _OF_OTHERS.fullmatch(tag)

    def __str__(self) -> str:
        return str(self.wanted) if isinstance(self.wanted, Reference) else f"{self.repository}:{self.wanted.pattern}"


def newest(tags: Iterable[str], count: int) -> list[str]:
    """Return the `count` tags that people call the newest, those first; tags have no time, but `v10` beats `v9`."""
    return sorted(set(tags), key=lambda tag: (_naturally(tag), tag), reverse=True)[:count]


def _naturally(tag: str) -> list[tuple[int, str]]:
    """Read runs of digits as numbers; the longer of two without leading zeros is the larger one."""
    parts = _NUMBERS.split(tag)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else (0, part) for place, part in enumerate(parts)]
