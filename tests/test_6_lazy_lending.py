"""Lazy blobs of two credentials: the second reads what comes for the first, once it has read some of it by itself."""

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import CsiOrasError, UnauthenticatedError
from csi_oras.lazy.tree import LazyTree
from csi_oras.oci.digest import Digest
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.fake_server import Answer, Request
from tests.support.gate import Gate
from tests.support.lazies import MIB, Lazies, credential_of, index_of, read
from tests.support.planted import planted
from tests.support.pods import PROOF_BYTES, asked_for, fetched, wait_for
from tests.support.private_registry import PASSWORD, USER, bcrypt, private_registry

pytest_plugins = ["tests.support.lazy_fixtures"]
LARGE = os.urandom(24 * MIB)
DIGEST = Digest.of(LARGE)
LAYER = Layer(content=LARGE, title="model")
INDEX = index_of(LARGE)
ALICE, BOB = credential_of("alice", "alice-knows"), credential_of("bob", "bob-knows")
MALLORY = credential_of("alice", "mallory-guesses")


class Shared(FakeRegistry):
    """A registry that knows Alice and Bob, and keeps what comes for her in the background until `goes_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.refuses_alice = self.lies_to_alice = False
        self.reference = self.artifact("t/x", [LAYER])
        for user in ("alice", "bob"):
            self.require_basic(user, planted(f"{user}-knows"))
        self.bend("/blobs/", self._hold)

    def _hold(self, request: Request, answer: Answer) -> Answer:
        if self.is_background(request):
            self.goes_on.wait(30)
        if request.authorization == alice() and self.refuses_alice:
            return Answer(status=401)
        if request.authorization == alice() and self.lies_to_alice:
            return replace(answer, body=answer.body[:-1] + bytes([answer.body[-1] ^ 1]))
        return answer

    def is_background(self, request: Request) -> bool:
        return request.authorization == alice() and asked_for(request, len(LARGE)) > MIB

    def held(self) -> list[int]:
        """Where what is held begins, when there is something."""
        wait_for(lambda: any(map(self.is_background, self.seen("/blobs/"))))
        return [start(request) for request in self.seen("/blobs/") if self.is_background(request)]

    def proofs(self, user: str) -> int:
        """How often somebody has shown that he may read it."""
        mine = [request for request in self.seen("/blobs/") if request.authorization == basic(user, f"{user}-knows")]
        return sum(asked_for(request, len(LARGE)) == PROOF_BYTES for request in mine)


@pytest.fixture
def shared() -> Iterator[Shared]:
    with Shared() as running:
        yield running
        running.goes_on.set()


def alice() -> str:
    return basic("alice", "alice-knows")


def start(request: Request) -> int:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return int(match[1]) if match else 0


def part(tree: LazyTree, place: int) -> bytes:
    return read(tree.show(DIGEST, place, place + 9, 0), place, place + 9)


def truth(place: int) -> bytes:
    return LARGE[place : place + 9]


@contextmanager
def in_background(tree: LazyTree, place: int) -> Iterator[list[bytes]]:
    """Read meanwhile; what was read is in the list in the end."""
    found: list[bytes] = []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(part, tree, place)
        yield found
        found.append(reading.result(60))


def begun_by_alice(lazies: Lazies, shared: Shared) -> tuple[LazyTree, LazyTree]:
    """Open a tree for Alice, who has read some of it, and one for Bob."""
    first, second = (lazies.open(shared.reference, INDEX, who) for who in (ALICE, BOB))
    part(first, 0)
    return first, second


@pytest.mark.parametrize("index", [INDEX, None], ids=["index", "no index"])
def test_second_reads_while_it_comes_for_the_first(lazies: Lazies, shared: Shared, index: object) -> None:
    known = INDEX if index else None
    first, second = (lazies.open(shared.reference, known, who) for who in (ALICE, BOB))
    part(first, 0)
    last = 23 * MIB
    assert last not in range(max(shared.held()), max(shared.held()) + 4 * MIB)
    for place in (0, last, last + 5):
        assert part(second, place) == truth(place)
    assert [shown.end for shown in second.advance(DIGEST, last, last + 9)] == [24 * MIB]
    assert shared.proofs("bob") == 1
    assert not lazies.app.content.path(DIGEST).exists()
    shared.goes_on.set()
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert part(second, 9 * MIB) == truth(9 * MIB)
    assert fetched(shared.seen("/blobs/"), len(LARGE)) == len(LARGE)


def test_second_that_is_refused_gets_nothing(lazies: Lazies, shared: Shared) -> None:
    first, second = (lazies.open(shared.reference, INDEX, who) for who in (ALICE, BOB))
    lazies.connect(second, MALLORY)
    part(first, 0)
    shared.held()
    for place in (0, 0, 13 * MIB):
        with pytest.raises(UnauthenticatedError):
            part(second, place)
    assert list(second.advance(DIGEST, 0, MIB)) == []
    shared.goes_on.set()
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    with pytest.raises(UnauthenticatedError):
        part(second, 0)


def test_another_credential_of_the_second_has_to_prove_itself(lazies: Lazies, shared: Shared) -> None:
    _, second = begun_by_alice(lazies, shared)
    shared.held()
    assert part(second, 0) == truth(0)
    lazies.connect(second, MALLORY)
    with pytest.raises(UnauthenticatedError):
        part(second, 0)
    lazies.connect(second, BOB)
    assert part(second, 0) == truth(0)
    assert shared.proofs("bob") == 2


def test_first_that_is_refused_is_no_error_of_the_second(lazies: Lazies, shared: Shared) -> None:
    first, second = begun_by_alice(lazies, shared)
    (held, *_) = shared.held()
    with in_background(second, held + 3 * MIB) as found:
        wait_for(lambda: shared.proofs("bob") == 1)
        shared.refuses_alice = True
        assert part(second, 23 * MIB) == truth(23 * MIB)
        shared.goes_on.set()
    assert found == [truth(held + 3 * MIB)]
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert lazies.app.content.path(DIGEST).read_bytes() == LARGE
    bobs = [request for request in shared.seen("/blobs/") if request.authorization != alice()]
    assert fetched(bobs, len(LARGE)) == len(LARGE) - MIB
    lazies.connect(first, MALLORY)
    with pytest.raises(CsiOrasError):
        part(first, 0)


def test_second_goes_on_when_the_first_is_unmounted(lazies: Lazies, shared: Shared) -> None:
    first, second = begun_by_alice(lazies, shared)
    shared.held()
    assert part(second, 0) == truth(0)
    lazies.trees.close(first.artifact.tree)
    shared.goes_on.set()
    for place in range(0, 24 * MIB, MIB):
        assert part(second, place) == truth(place)
    assert fetched(shared.seen("/blobs/"), len(LARGE)) == len(LARGE)


def test_bytes_of_the_first_that_turn_out_to_be_wrong_poison_the_second(lazies: Lazies, shared: Shared) -> None:
    shared.lies_to_alice = True
    first, second = (lazies.open(shared.reference, None, who) for who in (ALICE, BOB))
    for tree in (first, second):
        part(tree, 0)
    shared.goes_on.set()
    wait_for(lambda: first.poisoned() == second.poisoned() == [DIGEST])
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())  # by what the second asked for himself


@pytest.mark.needs("registry")
def test_real_registry_sends_each_byte_once_to_those_who_know_a_password(lazies: Lazies, short_path: Path) -> None:
    with private_registry(short_path / "registry") as (registry, pusher), Gate(registry.address) as gate:
        with (short_path / "registry" / "htpasswd").open("a") as users:
            users.write(f"bob:{bcrypt(planted('bob-knows'))}\n")
        pusher.artifact("t/x", [LAYER], tag="v1")
        reference = f"{gate.address}/t/x:v1"
        first, second = (lazies.open(reference, INDEX, who) for who in (credential_of(USER, PASSWORD), BOB))
        before = gate.passed
        gate.hold_after(3 * MIB)
        with in_background(first, 0) as firsts, in_background(second, 17 * MIB) as seconds:
            gate.wait_until_held()
            gate.open()
        assert (firsts, seconds) == ([truth(0)], [truth(17 * MIB)])
        wait_for(lambda: lazies.app.content.path(DIGEST).exists())
        assert gate.passed - before < len(LARGE) + MIB
        lazies.connect(second, MALLORY)
        with pytest.raises(UnauthenticatedError):
            part(second, 0)
