import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_oras.errors import SizeMismatchError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.store.content import ContentStore
from csi_oras.store.ingest import Ingest
from csi_oras.store.paths import StatePaths
from tests.support.ingesting import other_process
from tests.support.stores import content_store

_BLOB = Descriptor.of(b"0123456789", "application/octet-stream")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.create(tmp_path / "state")


@pytest.fixture
def content(paths: StatePaths) -> ContentStore:
    return content_store(paths)


def opened(content: ContentStore) -> Ingest:
    ingest = content.ingest(_BLOB)
    assert ingest is not None
    return ingest


def test_ingest_of_a_killed_process_goes_on_from_its_bytes(content: ContentStore, paths: StatePaths) -> None:
    with other_process(paths.root, _BLOB, b"0123") as other:
        other.kill()
    ingest = opened(content)
    assert ingest.covered == 4
    assert ingest.missing == [(4, 10)]
    ingest.write(memoryview(b"456789"), 4)
    content.commit(ingest, _BLOB.digest)
    assert content.path(_BLOB.digest).read_bytes() == b"0123456789"


def test_ingest_that_another_process_has_is_waited_for_and_then_there(content: ContentStore, paths: StatePaths) -> None:
    with other_process(paths.root, _BLOB, b"0123456789") as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(content.ingest, _BLOB)
        other.commit()
        assert waiting.result(30) is None
    assert content.has(_BLOB)


def test_ingest_that_another_process_lost_is_taken_over(content: ContentStore, paths: StatePaths) -> None:
    with other_process(paths.root, _BLOB, b"01") as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(content.ingest, _BLOB)
        assert not waiting.done()
        other.kill()
        ingest = waiting.result(30)
    assert ingest is not None
    assert ingest.missing == [(2, 10)]
    ingest.close()


def test_two_processes_never_hold_one_ingest(content: ContentStore, paths: StatePaths) -> None:
    calls = 0
    asked_twice = threading.Event()

    def is_there() -> bool:  # asked before each attempt to lock
        nonlocal calls
        calls += 1
        if calls == 3:
            asked_twice.set()
        return calls > 3

    with other_process(paths.root, _BLOB, b"01"), ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(Ingest.open, paths, _BLOB, is_there)
        assert asked_twice.wait(30)
        assert attempt.result(30) is None
    opened(content).close()


@pytest.mark.parametrize(
    ("extents", "missing"),
    [
        pytest.param("0 4\n4 6", [(4, 10)], id="torn last line"),
        pytest.param("0 4\n", [(4, 10)], id="whole lines"),
        pytest.param("2 4\n0 1\n", [(1, 2), (4, 10)], id="out of order"),
        pytest.param("0 99\n", [(6, 10)], id="beyond the bytes that are there"),
        pytest.param("x y\n-1 4\n1\n\n0 2\n", [(2, 10)], id="lines that are none"),
        pytest.param("", [(0, 10)], id="empty"),
        pytest.param("\udcff\n", [(0, 10)], id="no text"),
    ],
)
def test_extents_that_a_crash_left_are_a_hint(
    content: ContentStore, paths: StatePaths, extents: str, missing: list[tuple[int, int]]
) -> None:
    Path(paths.ingest(_BLOB.digest)).write_bytes(b"012345")
    Path(f"{paths.ingest(_BLOB.digest)}.extents").write_bytes(extents.encode(errors="surrogateescape"))
    ingest = opened(content)
    assert ingest.missing == missing
    ingest.close()


def test_discard_forgets_the_bytes_for_good(content: ContentStore) -> None:
    ingest = opened(content)
    ingest.write(memoryview(b"0123"), 0)
    ingest.keep(0, 4)
    ingest.discard()
    ingest.close()
    again = opened(content)
    assert again.missing == [(0, 10)]
    assert Path(again.path).stat().st_size == 0
    again.close()


def test_bytes_that_were_not_kept_are_fetched_again(content: ContentStore) -> None:
    ingest = opened(content)
    ingest.write(memoryview(b"0123456789"), 0)
    ingest.keep(0, 4)
    ingest.close()
    again = opened(content)
    assert again.missing == [(4, 10)]
    again.close()


def test_writers_in_any_order_wake_the_reader_at_the_frontier(content: ContentStore) -> None:
    ingest = opened(content)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ingest.wait_beyond, 0, 30)
        ingest.write(memoryview(b"456789"), 4)
        assert not waiting.done()
        ingest.write(memoryview(b"0123"), 0)
        assert waiting.result(30) == 10
    assert ingest.wait_beyond(10, 0) == 10
    ingest.close()


def test_remove_leaves_nothing_and_lets_others_in(content: ContentStore, paths: StatePaths) -> None:
    ingest = opened(content)
    ingest.write(memoryview(b"0123"), 0)
    ingest.keep(0, 4)
    ingest.remove()
    assert list(paths.ingests.iterdir()) == []
    opened(content).close()


def test_failed_put_lets_go_of_its_ingest(content: ContentStore) -> None:
    with pytest.raises(SizeMismatchError):
        content.put(_BLOB, b"more than ten bytes")
    with ThreadPoolExecutor(1) as pool:  # would wait for ever for a lock that nobody holds any more
        pool.submit(content.put, _BLOB, b"0123456789").result(5)
    assert content.has(_BLOB)


def test_ingests_of_two_sources_are_two_and_the_first_commit_stays(content: ContentStore, paths: StatePaths) -> None:
    ingests = [content.ingest(_BLOB, source) for source in ("one.test/model", "two.test/model")]
    for ingest in ingests:
        assert ingest is not None
        ingest.write(memoryview(b"0123456789"), 0)
        ingest.keep(0, 10)
    assert len(list(paths.ingests.iterdir())) == 4
    inodes = []
    for ingest in ingests:
        assert ingest is not None
        content.commit(ingest, _BLOB.digest)
        inodes.append(content.path(_BLOB.digest).stat().st_ino)
    assert inodes[0] == inodes[1]
    assert list(paths.ingests.iterdir()) == []


def test_ingest_of_a_source_is_found_again_by_that_source_only(content: ContentStore) -> None:
    sources = ["one.test/model", "one.test/other"]
    ingest = content.ingest(_BLOB, sources[0])
    assert ingest is not None
    ingest.write(memoryview(b"0123"), 0)
    ingest.keep(0, 4)
    ingest.close()
    covered = []
    for source in sources:
        ingest = content.ingest(_BLOB, source)
        assert ingest is not None
        covered.append(ingest.covered)
        ingest.close()
    assert covered == [4, 0]
