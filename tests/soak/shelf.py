"""Artifacts in a registry: files, archives, blobs and unpacked files that several share, and tags that move."""

import random
import threading
from dataclasses import dataclass, field

from tests.support.artifacts import Layer, Pusher, files
from tests.support.kinds_archives import oras_directory
from tests.support.tars import tar

_KIB = 1 << 10
_LARGE = 3 << 20
Shown = dict[str, bytes]
"""Every file of a volume by its name; of a volume that is one file, that by no name."""


@dataclass
class Item:
    """What a pod may ask for, and everything that a volume of it may rightly show."""

    reference: str
    attributes: dict[str, str] = field(default_factory=dict)
    versions: list[Shown] = field(default_factory=list)


class Shelf:
    """Two artifacts whose tags stay, one for each way to be read, and two whose tags move."""

    def __init__(self, pusher: Pusher, repository: str, chance: random.Random) -> None:
        self._pusher = pusher
        self._repository = repository
        self._chance = chance
        self._lock = threading.Lock()
        self._common = chance.randbytes(300 * _KIB)
        self._members = {f"packed/{number}": b"member %d" % number for number in range(20)}
        plain = {"x": b"right", "y": b"other", "common": self._common}
        self._items = [
            self._pushed("plain", plain),
            *(self._pushed(f"large-{number}", {"large": chance.randbytes(_LARGE)}) for number in range(2)),
            self._pushed("packed", {"x": b"right"}, self._members),
        ]
        first = self._items[0]
        self._items += [
            Item(first.reference, {"path": "x"}, [{"": b"right"}]),
            Item(first.reference, {"pullPolicy": "Always", "noexec": "true"}, first.versions),
        ]
        self._moving = [Item(f"{pusher.address}/{repository}:{tag}", {"pullPolicy": "Always"}) for tag in ("m", "n")]
        for _ in self._moving:
            self.move()

    @property
    def items(self) -> list[Item]:
        """Everything that a pod may ask for."""
        return self._items + self._moving

    def move(self) -> None:
        """Let a tag mean what it never meant before, most of which is what it meant before."""
        with self._lock:
            item = min(self._moving, key=lambda item: len(item.versions))
            version = sum(len(item.versions) for item in self._moving)
            text = b"version %d" % version
            if item is self._moving[0]:
                own, members = {"v": text, "w": self._chance.randbytes(100 * _KIB), "common": self._common}, {}
            else:
                own, members = {"common": self._common}, {**self._members, "packed/v": text}
            item.versions.append({**own, **members})  # before anybody can see it
            self._push(item.reference.rpartition(":")[2], own, members)

    def _pushed(self, tag: str, own: Shown, members: Shown | None = None) -> Item:
        reference = self._push(tag, own, members or {})
        return Item(reference, versions=[{**own, **(members or {})}])

    def _push(self, tag: str, own: Shown, members: Shown) -> str:
        return self._pusher.artifact(self._repository, [*_packed(members), *files(**own)], tag=tag)


def _packed(members: Shown) -> list[Layer]:
    described = [{"name": name, "content": content.decode()} for name, content in members.items()]
    return [oras_directory("packed", tar(described))] if members else []
