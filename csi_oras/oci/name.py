"""Names: the relative paths that a volume shows, checked once, safe to hand to the kernel ever after.

A name that is not plainly harmless is refused, never repaired: what one tool strips another keeps, and the
difference is the attack. Titles, file paths, archive members and configs all pass here.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Self

from csi_oras.errors import INVISIBLE, printable

LONGEST_COMPONENT = 255
"""Bytes, as Linux file systems have it."""
LONGEST = 3584
"""Bytes; PATH_MAX (4,096) less what stands before it: the store's tree, the kubelet's pod, the container's mount."""
DEEPEST = 64
"""Components."""
METADATA = ".oci"
"""The directory that keeps an artifact's identity; no name from outside begins with it."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_RESERVED = frozenset({".csi-oras", METADATA})


class UnsafeNameError(ValueError):
    """Why a text is no name: half a sentence, to be completed with the artifact and the layer."""


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A relative path of one or more components, none of them special."""

    components: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, portable: bool = True) -> Self:
        """Check `text` and split it at its slashes.

        A root file system has names that are not `portable`, with colons (dpkg's) and backslashes (systemd's).

        Raises:
            UnsafeNameError: with the rule that it breaks.
        """
        reason = _refusal(text, portable=portable)
        if reason:
            raise UnsafeNameError(reason)
        return cls(tuple(text.split("/")))

    def __str__(self) -> str:
        return "/".join(self.components)

    @property
    def parents(self) -> list["Name"]:
        """The directories above, outermost first."""
        return [Name(self.components[:depth]) for depth in range(1, len(self.components))]

    def joined(self, below: "Name") -> "Name":
        """Return what `below` is below this directory.

        Raises:
            UnsafeNameError: together they are too long or too deep.
        """
        name = Name(self.components + below.components)
        if reason := _size_refusal(str(name).encode(), len(name.components)):
            raise UnsafeNameError(f'{reason} in "{printable(str(self), 80)}"')
        return name

    def below(self, directory: "Name") -> "Name | None":
        """Return this name relative to `directory`, or None where it is not inside."""
        depth = len(directory.components)
        if len(self.components) <= depth or self.components[:depth] != directory.components:
            return None
        return Name(self.components[depth:])

    @property
    def normalised(self) -> str:
        """The NFC form, under which two names that look the same are the same."""
        return unicodedata.normalize("NFC", str(self))


def _refusal(text: str, *, portable: bool) -> str:
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    components = text.split("/")
    too_large = _size_refusal(encoded, len(components))
    rules = (
        (too_large, too_large),
        (_CONTROL.search(text), "holds a control character"),
        (_INVISIBLE.search(text), "holds an invisible or direction-changing character"),
        # drives, streams and separators elsewhere: nobody could push it on from there
        (portable and ("\\" in text or ":" in text), "holds a backslash or a colon"),
        (text.startswith("/"), "is absolute"),
        (components[0] in _RESERVED, f'uses the reserved name "{components[0]}"'),
    )
    broken = (reason for is_broken, reason in rules if is_broken)
    return next(broken, "") or next(filter(None, map(_component_refusal, components)), "")


def _size_refusal(encoded: bytes, depth: int) -> str:
    if len(encoded) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return f"is deeper than {DEEPEST} directories" if depth > DEEPEST else ""


def _component_refusal(component: str) -> str:
    if not component:
        return "has an empty component"
    if component in (".", ".."):
        return f'has a "{component}" component'
    if len(component.encode()) > LONGEST_COMPONENT:
        return f"has a component longer than {LONGEST_COMPONENT} bytes"
    if component.startswith(".wh."):
        return "looks like a whiteout"
    return ""
