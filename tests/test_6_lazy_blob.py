"""Lazy blobs: what is read comes first, is proven before it is shown, and is fetched once."""

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from csi_oras.errors import ArtifactNotFoundError, DigestMismatchError, RegistryUnavailableError
from csi_oras.fuse import tree as fuse_tree
from csi_oras.lazy import patience
from csi_oras.lazy.proofs import Proof
from csi_oras.oci.digest import Digest
from csi_oras.transfer import lazily
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, status
from tests.support.lazies import MIB, Lazies, index_of, read
from tests.support.pods import Held, wait_for

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.lazy_fixtures"]
LARGE = os.urandom(24 * MIB)
DIGEST = Digest.of(LARGE)


def ranges(fake: FakeRegistry) -> list[tuple[int, int]]:
    """What was asked for of blobs in ranges, half-open, in the order of the requests."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")) for request in fake.requests]
    return [(int(match[1]), int(match[2]) + 1) for match in found if match]


def model(fake: FakeRegistry, *contents: bytes) -> str:
    """Push an artifact of files."""
    return fake.artifact(
        "t/x", [Layer(content=content, title=f"f{n}") for n, content in enumerate(contents or [LARGE])]
    )


def test_read_asks_for_its_chunk_first(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    start = 13 * MIB + 5
    assert read(tree.show(DIGEST, start, start + 100, 0), start, start + 100) == LARGE[start : start + 100]
    assert ranges(fake)[0] == (13 * MIB, 14 * MIB)
    assert Proof.VERIFIED in lazies.proofs


def test_what_was_touched_comes_whole_and_no_byte_twice(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    for start in (20 * MIB, 3 * MIB, 11 * MIB + 77):
        read(tree.show(DIGEST, start, start + 10, 0), start, start + 10)
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert sum(end - start for start, end in ranges(fake)) == len(LARGE)
    assert lazies.app.content.path(DIGEST).read_bytes() == LARGE


def test_what_was_announced_is_told_when_it_is_here_and_proven_once(lazies: Lazies, fake: FakeRegistry) -> None:
    goes_on = threading.Event()
    reference = model(fake)
    fake.bend("/blobs/", lambda request, answer: (_is_at(request, 20 * MIB) and goes_on.wait(20), answer)[1])
    tree = lazies.open(reference, index_of(LARGE))
    shown = tree.show(DIGEST, 0, 1, 0)
    told = list(tree.advance(DIGEST, MIB, 13 * MIB))
    assert told[-1].end >= 13 * MIB
    assert all((one.inode, one.descriptor) == (shown.inode, None) for one in told)
    for start in range(MIB, 13 * MIB, 3 * MIB):
        assert tree.show(DIGEST, start, start + MIB, shown.inode).end >= 13 * MIB
    assert lazies.proofs == [Proof.VERIFIED] * 13
    assert read(shown._replace(end=13 * MIB), 0, 13 * MIB) == LARGE[: 13 * MIB]
    goes_on.set()


def test_what_nobody_touched_is_not_fetched(lazies: Lazies, fake: FakeRegistry) -> None:
    other = os.urandom(8 * MIB)
    tree = lazies.open(model(fake, LARGE, other))
    read(tree.show(DIGEST, 0, 1, 0), 0, 1)
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert not any(Digest.of(other).encoded in request.path for request in fake.requests)


def test_small_blob_is_shown_when_it_is_whole_and_verified(lazies: Lazies, fake: FakeRegistry) -> None:
    content = b"small"
    tree = lazies.open(model(fake, content))
    shown = tree.show(Digest.of(content), 1, 3, 0)
    assert (shown.start, shown.end) == (0, 5)
    assert read(shown, 0, 5) == content


def test_reader_that_has_the_file_gets_no_other_until_it_is_another(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    first = tree.show(DIGEST, 0, 1, 0)
    read(first, 0, 1)
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    again = tree.show(DIGEST, 9 * MIB, 10 * MIB, first.inode)
    assert (again.start, again.end, again.inode, again.descriptor) == (0, len(LARGE), first.inode, None)


def test_readers_of_one_place_share_one_request(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    with ThreadPoolExecutor(16) as pool:
        shown = list(pool.map(lambda number: tree.show(DIGEST, 7 * MIB + number, 7 * MIB + 99, 0), range(16)))
    for one in shown:
        assert read(one, 7 * MIB, 7 * MIB + 99) == LARGE[7 * MIB : 7 * MIB + 99]
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert sum(end - start for start, end in ranges(fake)) == len(LARGE)


@pytest.mark.parametrize("serves_ranges", [True, False], ids=["it is refused", "there are no ranges"])
def test_reader_who_waits_for_what_another_asks_for_goes_on_where_that_fails(
    lazies: Lazies, fake: FakeRegistry, *, serves_ranges: bool
) -> None:
    """Though all that nobody waits for is held back for him."""
    reference, fake.serves_ranges = model(fake), serves_ranges
    held = Held(status(404)) if serves_ranges else Held()
    fake.bend(f"/blobs/{DIGEST}", held, times=1)
    tree = lazies.open(reference, index_of(LARGE))
    place = 20 * MIB
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(tree.show, DIGEST, place, place + 9, 0) for _ in range(2))
        held.wait()
        wait_for(lambda: lazies.app._blobs._urgent[fake.address] == 2)
        held.release()
        refused = [type(one.exception(30)) for one in (first, second) if one.exception(30)]
        assert refused == [ArtifactNotFoundError] * serves_ranges
        for one in (first, second):
            if not one.exception():
                assert read(one.result(), place, place + 9) == LARGE[place : place + 9]


def test_wrong_chunk_is_asked_for_again_and_never_shown(lazies: Lazies, fake: FakeRegistry) -> None:
    reference = model(fake)
    lies = iter([True])
    fake.bend(
        "/blobs/",
        lambda request, answer: _flipped(answer) if _is_at(request, 5 * MIB) and next(lies, False) else answer,
    )
    tree = lazies.open(reference, index_of(LARGE))
    start = 5 * MIB + 1
    assert read(tree.show(DIGEST, start, start + 50, 0), start, start + 50) == LARGE[start : start + 50]
    assert Proof.REJECTED in lazies.proofs
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert tree.poisoned() == []


def test_chunk_that_stays_wrong_is_an_error_and_the_others_are_shown(lazies: Lazies, fake: FakeRegistry) -> None:
    reference = model(fake)
    fake.bend("/blobs/", lambda request, answer: _flipped(answer) if _is_at(request, 5 * MIB) else answer)
    tree = lazies.open(reference, index_of(LARGE))
    with pytest.raises(DigestMismatchError, match="chunk index"):
        tree.show(DIGEST, 5 * MIB, 5 * MIB + 1, 0)
    assert read(tree.show(DIGEST, 9 * MIB, 9 * MIB + 3, 0), 9 * MIB, 9 * MIB + 3) == LARGE[9 * MIB : 9 * MIB + 3]


def test_blob_without_index_that_is_wrong_is_poisoned_when_it_is_whole(lazies: Lazies, fake: FakeRegistry) -> None:
    reference = model(fake)
    fake.blobs["t/x"][str(DIGEST)] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    tree = lazies.open(reference)
    read(tree.show(DIGEST, 0, 10, 0), 0, 10)
    wait_for(lambda: tree.poisoned() == [DIGEST])
    with pytest.raises(DigestMismatchError):
        tree.show(DIGEST, 0, 10, 0)
    assert Proof.POISONED in lazies.proofs
    assert not lazies.app.content.path(DIGEST).exists()


def test_hint_that_lies_costs_a_wait_and_no_wrong_byte(lazies: Lazies, fake: FakeRegistry) -> None:
    other = bytearray(LARGE)
    other[2 * MIB] ^= 1
    lying = index_of(bytes(other))
    (blob,) = lying.blobs.values()
    hint = type(lying)(blobs={DIGEST: replace(blob, digest=DIGEST)})
    tree = lazies.open(model(fake))
    tree.hint(hint.find)
    assert read(tree.show(DIGEST, 2 * MIB, 2 * MIB + 9, 0), 2 * MIB, 2 * MIB + 9) == LARGE[2 * MIB : 2 * MIB + 9]
    assert lazies.app.content.path(DIGEST).exists()
    assert tree.poisoned() == []


def test_registry_that_serves_no_ranges_is_waited_for(lazies: Lazies, fake: FakeRegistry) -> None:
    fake.serves_ranges = False
    tree = lazies.open(model(fake), index_of(LARGE))
    shown = tree.show(DIGEST, 20 * MIB, 20 * MIB + 9, 0)
    assert read(shown, 20 * MIB, 20 * MIB + 9) == LARGE[20 * MIB : 20 * MIB + 9]


def test_registry_that_is_dead_is_an_error_and_works_again_when_it_is_back(
    lazies: Lazies, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 2.0)
    tree = lazies.open(model(fake), index_of(LARGE))
    fake.bend("/blobs/", status(503))
    with pytest.raises(RegistryUnavailableError):
        tree.show(DIGEST, 0, 1, 0)
    fake.straighten()
    assert read(tree.show(DIGEST, 0, 1, 0), 0, 1) == LARGE[:1]


def test_read_is_not_held_up_by_what_nobody_waits_for(lazies: Lazies, fake: FakeRegistry) -> None:
    reference, held = model(fake), threading.Event()

    def bend(request: Request, answer: Answer) -> Answer:
        if _width(request) > MIB:  # what comes in the background
            held.wait(30)
        return answer

    fake.bend("/blobs/", bend)
    tree = lazies.open(reference, index_of(LARGE))
    try:
        read(tree.show(DIGEST, 0, 1, 0), 0, 1)
        wait_for(lambda: any(end - start > MIB for start, end in ranges(fake)))
        taken = {start // MIB for start, end in ranges(fake) for start in range(start, end, MIB)}
        place = next(number for number in reversed(range(24)) if number not in taken) * MIB
        assert read(tree.show(DIGEST, place, place + 5, 0), place, place + 5) == LARGE[place : place + 5]
    finally:
        held.set()


def test_tree_is_served_on_by_the_next_process(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    read(tree.show(DIGEST, 0, 1, 0), 0, 1)
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    again = lazies.app.lazy_trees(lambda _blob, _proof: None)
    again.load()
    found = again.find(tree.artifact.tree)
    assert found
    assert found.artifact == tree.artifact or found.artifact.tree == tree.artifact.tree
    assert read(found.show(DIGEST, 4, 9, 0), 4, 9) == LARGE[4:9]


@pytest.mark.parametrize("password", ["", "another"])
def test_pull_of_what_is_read_is_the_same_fetch(lazies: Lazies, fake: FakeRegistry, password: str) -> None:
    reference = model(fake)
    tree = lazies.open(reference, index_of(LARGE))
    read(tree.show(DIGEST, 7 * MIB, 7 * MIB + 1, 0), 7 * MIB, 7 * MIB + 1)
    assert lazies.pull(reference, password).path.joinpath("f0").read_bytes() == LARGE
    proofs = [(start, end) for start, end in ranges(fake) if end - start < MIB]  # of who came with another credential
    assert sum(end - start for start, end in ranges(fake) if (start, end) not in proofs) == len(LARGE)


def test_registry_that_is_back_in_time_costs_a_pause(lazies: Lazies, fake: FakeRegistry) -> None:
    tree = lazies.open(model(fake), index_of(LARGE))
    fake.bend("/blobs/", status(503))
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(tree.show, DIGEST, 0, 1, 0)
        wait_for(lambda: fake.count("/blobs/") >= 1)
        assert not shown.done()
        fake.straighten()
        assert read(shown.result(60), 0, 1) == LARGE[:1]


def test_blob_that_comes_from_elsewhere_in_the_midst_of_a_read_is_read_from_there(
    lazies: Lazies, fake: FakeRegistry
) -> None:
    tree = lazies.open(model(fake))
    elsewhere = fake.artifact("t/other", [Layer(content=LARGE, title="f0")])

    def bend(_request: Request, _answer: Answer) -> Answer:
        fake.straighten()
        lazies.pull(elsewhere)
        return Answer(status=503)

    fake.bend("/t/x/blobs/", bend, times=1)
    assert read(tree.show(DIGEST, 20 * MIB, 20 * MIB + 9, 0), 20 * MIB, 20 * MIB + 9) == LARGE[20 * MIB : 20 * MIB + 9]


def test_fetch_that_failed_when_bytes_had_been_shown_does_not_keep_the_next_from_them(
    lazies: Lazies, fake: FakeRegistry
) -> None:
    tree = lazies.open(model(fake))
    fake.bend("/blobs/", lambda request, answer: answer if _is_at(request, 0) else status(503)(request, answer))
    assert read(tree.show(DIGEST, 0, 1, 0), 0, 1) == LARGE[:1]
    wait_for(lambda: not lazies.app._blobs._jobs)  # that it has failed, nobody hears who waits for nothing
    fake.straighten()
    assert read(tree.show(DIGEST, 20 * MIB, 20 * MIB + 9, 0), 20 * MIB, 20 * MIB + 9) == LARGE[20 * MIB : 20 * MIB + 9]


def test_no_more_files_are_lazy_than_a_process_serves(
    lazies: Lazies, fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lazily.MOST_FILES == fuse_tree.MOST_FILES
    monkeypatch.setattr(lazily, "MOST_FILES", 2)
    reference = fake.artifact("t/many", [Layer(content=os.urandom(10), title=f"f{number}") for number in range(3)])
    assert lazies.refusal(reference) == "it has 3 files, and a lazy volume can have 2"


def _is_at(request: Request, start: int) -> bool:
    return request.headers.get("Range", "").startswith(f"bytes={start}-")


def _width(request: Request) -> int:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return int(match[2]) + 1 - int(match[1]) if match else 0


def _flipped(answer: Answer) -> Answer:
    return replace(answer, body=bytes([answer.body[0] ^ 1]) + answer.body[1:])
