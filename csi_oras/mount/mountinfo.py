"""/proc/self/mountinfo (proc(5)): what is mounted where, also of one file system upon itself."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line: id, device (major:minor), the path within it that is shown, where, how, its type, and its source.

    `details` are what the file system says of itself: of an overlay, its directories.
    """

    mount_id: int
    device: str
    root: str
    target: str
    options: frozenset[str]
    filesystem: str
    source: str
    details: str
    shared: bool
    """Whether what is mounted below it is seen in other mount namespaces, too."""

    @property
    def read_only(self) -> bool:
        """Whether the mount itself is read-only."""
        return "ro" in self.options


def parse(text: str) -> Iterator[Mount]:
    """Yield the mounts of a mountinfo text, oldest first; of those stacked on one target the last is on top."""
    for line in text.split("\n"):  # and at nothing else that Python takes for the end of a line
        if not line:
            continue
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        yield Mount(
            mount_id=int(fields[0]),
            device=fields[2],
            root=_unescape(fields[3]),
            target=_unescape(fields[4]),
            options=frozenset(fields[5].split(",")),
            filesystem=tail.split(" ")[0],
            source=_unescape(tail.split(" ")[1]),
            details=_unescape(tail.rpartition(" ")[2]),
            shared=any(field.startswith("shared:") for field in fields[6:]),
        )


def read() -> list[Mount]:
    """Return the mounts of this process's namespace."""
    return list(parse(os.fsdecode(MOUNTINFO.read_bytes())))


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
