"""Reading ahead changes nothing but the thread: order, errors and the end are those of what is read."""

import threading
from collections.abc import Iterator

import pytest

from csi_oras.unpack.ahead import ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_chunks_come_in_their_order_and_the_thread_ends() -> None:
    assert list(ahead(bytes([n]) for n in range(50))) == [bytes([n]) for n in range(50)]
    assert readers() == []


def test_error_comes_after_the_chunks_before_it() -> None:
    def broken() -> Iterator[bytes]:
        yield b"1"
        raise LookupError("here")

    chunks = ahead(broken())
    assert next(chunks) == b"1"
    with pytest.raises(LookupError, match="here"):
        next(chunks)
    assert readers() == []


def test_reader_that_stops_early_stops_the_thread_and_what_it_reads() -> None:
    made = []

    def endless() -> Iterator[bytes]:
        while True:
            made.append(1)
            yield b"x"

    chunks = ahead(endless())
    next(chunks)
    chunks.close()
    assert readers() == []
    assert len(made) < 10
