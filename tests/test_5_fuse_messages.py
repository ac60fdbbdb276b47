"""What a FUSE process believes: messages of the driver, and which bytes are local."""

import json
import random
from typing import Any

import pytest

from csi_oras.errors import CsiOrasError
from csi_oras.fuse import messages
from csi_oras.fuse.local import Local
from csi_oras.oci.digest import Digest

_BLOB = "sha256:" + "0" * 64


def test_messages_of_the_driver_are_understood() -> None:
    shown = messages.parse(b'{"id": 7, "start": 0, "end": 5, "inode": 18446744073709551615}')
    assert shown == messages.Shown(7, 0, 5, 2**64 - 1)
    assert messages.parse(b'{"id": 7, "error": "EIO"}') == messages.Refused(7, lacks_space=False)
    assert messages.parse(b'{"id": 7, "error": "ENOSPC"}') == messages.Refused(7, lacks_space=True)
    assert messages.parse(b'{"id": 7, "wait": true}') == messages.Coming(7)
    came = messages.parse(json.dumps({"op": "shown", "blob": _BLOB, "start": 1, "end": 5, "inode": 3}).encode())
    assert came == messages.Came(Digest.parse(_BLOB), 1, 5, 3)
    poisoned = messages.parse(json.dumps({"op": "poison", "blob": _BLOB}).encode())
    assert isinstance(poisoned, messages.Poisoned)
    assert str(poisoned.blob) == _BLOB


@pytest.mark.parametrize(
    "changes",
    [{"id": None, "wait": True}, {"wait": 1, "end": 0},
     {"id": None}, {"id": "7"}, {"id": -1}, {"start": -1}, {"start": 5}, {"start": 6}, {"end": 2**60}, {"inode": 0},
     {"inode": -1}, {"inode": 2**64}, {"inode": True}, {"inode": "7"}, {"error": 5}, {"op": "poison", "blob": "x"},
     {"op": "shown", "blob": "x"}, {"op": "shown", "blob": _BLOB, "end": 0}],
)  # fmt: skip
def test_message_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    message = {"id": 7, "start": 0, "end": 5, "inode": 3} | changes
    with pytest.raises(CsiOrasError):
        messages.parse(json.dumps(message).encode())


def test_local_covers_exactly_what_was_added() -> None:
    local, there = Local(), [False] * 300
    chance = random.Random(11)  # noqa: S311 (any order)
    for _ in range(400):
        start = chance.randrange(300)
        end = chance.randrange(start + 1, min(start + 12, 300) + 1)
        local.add(start, end)
        there[start:end] = [True] * (end - start)
        first = chance.randrange(300)
        last = chance.randrange(first + 1, 301)
        assert local.covers(first, last) == all(there[first:last])
        assert local.covers(start, end)
