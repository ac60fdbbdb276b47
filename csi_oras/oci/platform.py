"""Platforms: which of an index's manifests a node wants."""

import re
from dataclasses import dataclass
from typing import Self

from csi_oras.errors import InvalidRequestError, printable

_PART = r"[a-zA-Z0-9_.-]{1,64}"
_GRAMMAR = re.compile(rf"({_PART})/({_PART})(?:/({_PART}))?")
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture and variant, in Go's spelling."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/arch[/variant]`.

        Raises:
            InvalidRequestError: it is written otherwise.
        """
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise InvalidRequestError(
                f'platform "{printable(text, 80)}"',
                "is not a platform",
                "write it as os/arch or os/arch/variant",
            )
        return cls(match[1], match[2], match[3] or "")

    @classmethod
    def of_machine(cls, machine: str) -> Self:
        """Return the platform of a Linux node whose `uname -m` says `machine`."""
        architecture, variant = _MACHINES.get(machine, (machine, ""))
        return cls("linux", architecture, variant)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))
