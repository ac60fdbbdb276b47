"""Files that the driver hands out, read at once or from the disk."""

import os
from pathlib import Path

import trio

from csi_oras.fuse.opened import Means, Opened
from tests.support.descriptors import opened_below

SIZE = 100_000


def open_file(path: Path, byte: bytes, means: Means) -> Opened:
    path.write_bytes(byte * SIZE)
    return Opened(os.open(path, os.O_RDONLY), path.stat().st_ino, means)


def test_bytes_of_one_process_are_never_those_that_another_reads(tmp_path: Path) -> None:
    """The mounter forks all processes that serve from one, which has everything loaded."""
    means = Means()
    ours, theirs = open_file(tmp_path / "a", b"a", means), open_file(tmp_path / "b", b"b", means)
    content = ours.read_cached(0, SIZE)
    child = os.fork()
    if not child:
        os._exit(bytes(theirs.read_cached(0, SIZE) or b"") != b"b" * SIZE)
    assert os.waitpid(child, 0)[1] == 0
    assert content is not None
    assert bytes(content) == b"a" * SIZE
    ours.close()
    theirs.close()


def test_file_that_is_let_go_while_it_is_read_is_closed_behind_the_reader(tmp_path: Path) -> None:
    opened = open_file(tmp_path / "a", b"a", Means())
    assert len(opened_below(tmp_path)) == 1
    contents: list[bytes] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        contents.append(await opened.read(0, SIZE))

    async def read_and_let_go() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                await nursery.start(read)
            opened.close()

    trio.run(read_and_let_go)
    assert contents == [b"a" * SIZE] * 20
    assert opened_below(tmp_path) == []


def test_read_across_the_end_of_a_file_is_not_at_once_and_brings_what_there_is(tmp_path: Path) -> None:
    opened = open_file(tmp_path / "a", b"a", Means())
    assert opened.read_cached(SIZE - 10, SIZE + 10) is None
    assert trio.run(opened.read, SIZE - 10, SIZE + 10) == b"a" * 10
    opened.close()
