"""Answers to the kernel, asked for directly: what it never asks of a tree that is right, and bugs."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import pyfuse3
import pytest
import trio

from csi_oras.errors import DigestMismatchError, NoSpaceError, StoreBrokenError
from csi_oras.fuse.operations import Operations
from csi_oras.fuse.statistics import Statistics
from csi_oras.fuse.tree import Tree

_PLAN = {
    "version": 1,
    "entries": [{"name": "d/file", "blob": f"sha256:{hashlib.sha256(b'x').hexdigest()}", "size": 9, "mode": 0o444}],
}
ROOT, DIRECTORY, FILE, NOTHING = 1, 2, 3, 4


class Failing:
    """Blobs of which every read fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def expect(self, *_: Any) -> None:
        raise self._error

    async def read(self, *_: Any) -> bytes:
        raise self._error


def make(error: Exception) -> Operations:
    tree, blobs = Tree.parse(json.dumps(_PLAN).encode()), Failing(error)
    return Operations(tree, blobs, Statistics(), taken_over=lambda: None)  # type: ignore[arg-type]


def refusal(operation: Callable[..., Any], *arguments: Any) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(operation, *arguments)
    return caught.value.errno


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSpaceError("a", "b"), errno.ENOSPC),
        (DigestMismatchError("a", "b"), errno.EIO),
        (StoreBrokenError("a", "b"), errno.EIO),
        (ValueError("a bug"), errno.EIO),
        (PermissionError(errno.EPERM, "a bug"), errno.EIO),
        (ExceptionGroup("bugs", [KeyError("a bug")]), errno.EIO),
    ],
    ids=lambda value: type(value).__name__,
)
def test_read_that_fails_in_whatever_way_is_an_error_for_the_reader(error: Exception, code: int) -> None:
    assert refusal(make(error).read, FILE, 0, 9) == code


def test_numbers_that_mean_something_else_are_refused() -> None:
    operations = make(AssertionError("nothing is read"))
    assert refusal(operations.getattr, NOTHING, None) == errno.ESTALE
    assert refusal(operations.lookup, FILE, b"file", None) == errno.ESTALE
    assert refusal(operations.open, DIRECTORY, os.O_RDONLY, None) == errno.ESTALE
    assert refusal(operations.opendir, FILE, None) == errno.ESTALE
    assert refusal(operations.read, DIRECTORY, 0, 9) == errno.ESTALE
    assert refusal(operations.readdir, FILE, 0, None) == errno.ESTALE


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_APPEND])
def test_open_for_writing_is_refused(flags: int) -> None:
    assert refusal(make(AssertionError()).open, FILE, flags, None) == errno.EROFS


def test_read_behind_the_end_is_empty_and_asks_nobody() -> None:
    operations = make(AssertionError("nothing is read"))
    assert trio.run(operations.read, FILE, 9, 1) == b""
    assert trio.run(operations.read, FILE, 1 << 62, 1 << 20) == b""


def test_handler_of_every_request_of_the_protocol_is_ours() -> None:
    """A new pyfuse3 may bring requests that we have never thought of."""
    not_ours = {"poll", "readlink", "access", "stacktrace"}
    handlers = {name for name in dir(pyfuse3.Operations) if callable(getattr(pyfuse3.Operations, name))}
    inherited = {name for name in handlers if getattr(Operations, name) is getattr(pyfuse3.Operations, name)}
    assert {name for name in inherited if not name.startswith("_")} == not_ours
