"""Unproven bytes: a registry that lied once is found out, whoever brings the truth, whatever was killed meanwhile."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import DigestMismatchError
from csi_oras.lazy.proofs import Proof
from csi_oras.lazy.tree import LazyTree
from csi_oras.oci.digest import Digest
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request
from tests.support.lazies import MIB, Lazies, index_of, read
from tests.support.pods import asked_for, wait_for

pytest_plugins = ["tests.support.lazy_fixtures"]
LARGE = os.urandom(24 * MIB)
DIGEST = Digest.of(LARGE)
INDEX = index_of(LARGE)
PLACE = 10 * MIB + 7
LIE = LARGE[:PLACE] + bytes([LARGE[PLACE] ^ 1]) + LARGE[PLACE + 1 :]


class Liar(FakeRegistry):
    """A registry whose repository `t/x` has one byte wrong, as long as it lies; what nobody waits for, it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.lies, self.goes_on = True, threading.Event()
        self.reference = self.artifact("t/x", [Layer(content=LARGE, title="model")])
        self.bend("/v2/t/x/blobs/", self._lie)

    def _lie(self, request: Request, answer: Answer) -> Answer:
        asked = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if asked_for(request, len(LARGE)) > MIB:
            self.goes_on.wait(30)
        start = int(asked[0] or 0)
        return replace(answer, body=LIE[start : start + len(answer.body)]) if self.lies else answer

    def repents(self) -> None:
        """Tell the truth from now on, and hold nothing."""
        self.lies = False
        self.goes_on.set()


@pytest.fixture
def liar() -> Iterator[Liar]:
    with Liar() as running:
        yield running
        running.goes_on.set()


def shows_a_lie(tree: LazyTree) -> bool:
    return read(tree.show(DIGEST, PLACE, PLACE + 1, 0), PLACE, PLACE + 1) == LIE[PLACE : PLACE + 1]


def is_poisoned(tree: LazyTree) -> bool:
    if tree.poisoned() != [DIGEST]:
        return False
    with pytest.raises(DigestMismatchError):
        tree.show(DIGEST, 0, 1, 0)
    return True


def finish(lazies: Lazies) -> None:
    wait_for(lambda: lazies.app.content.path(DIGEST).exists())
    assert lazies.app.content.path(DIGEST).read_bytes() == LARGE


def test_another_repository_that_brings_the_truth_poisons_what_was_shown(lazies: Lazies, liar: Liar) -> None:
    tree = lazies.open(liar.reference)
    assert shows_a_lie(tree)
    other = liar.artifact("t/other", [Layer(content=LARGE, title="model")])
    lazies.pull(other)
    liar.goes_on.set()
    wait_for(lambda: is_poisoned(tree))
    assert Proof.POISONED in lazies.proofs


def test_index_that_rejects_what_another_has_shown_poisons_that_when_all_is_here(lazies: Lazies, liar: Liar) -> None:
    first = lazies.open(liar.reference)
    assert shows_a_lie(first)
    liar.lies = False
    second = lazies.open(liar.artifact("t/x", [Layer(content=LARGE, title="other")], tag="v2"), INDEX)
    assert not shows_a_lie(second)
    liar.repents()
    finish(lazies)
    wait_for(lambda: is_poisoned(first))
    assert second.poisoned() == []


def test_true_hint_that_comes_late_poisons_what_was_shown_before(lazies: Lazies, liar: Liar) -> None:
    tree = lazies.open(liar.reference)
    assert shows_a_lie(tree)
    tree.hint(INDEX.find)
    liar.lies = False
    assert not shows_a_lie(tree)
    liar.repents()
    finish(lazies)
    wait_for(lambda: is_poisoned(tree))


def test_lying_hint_poisons_nothing_that_was_true(lazies: Lazies, liar: Liar) -> None:
    liar.lies = False
    tree = lazies.open(liar.reference)
    assert not shows_a_lie(tree)
    lying = index_of(LIE)
    (blob,) = lying.blobs.values()
    tree.hint(type(lying)(blobs={DIGEST: replace(blob, digest=DIGEST)}).find)
    liar.goes_on.set()
    assert not shows_a_lie(tree)
    finish(lazies)
    lazies.trees.settle()
    assert tree.poisoned() == []


def test_lie_that_a_killed_driver_has_shown_is_found_out_by_the_next(short_path: Path, liar: Liar) -> None:
    first = Lazies(short_path)
    shown = first.open(liar.reference)
    assert shows_a_lie(shown)
    shown.close()  # a killed one forgets nothing, and ends what it fetches
    wait_for(lambda: not first.app._blobs._jobs)  # what a kill ends is seen nowhere else
    first.app.close()
    liar.repents()
    second = Lazies(short_path)
    second.trees.load()
    tree = second.trees.find(shown.artifact.tree)
    assert tree
    tree.show(DIGEST, 0, 1, 0)
    finish(second)
    wait_for(lambda: is_poisoned(tree))
    second.close()


def test_bound_index_is_not_poisoned_by_what_another_was_shown(lazies: Lazies, liar: Liar) -> None:
    bound = lazies.open(liar.artifact("t/x", [Layer(content=LARGE, title="other")], tag="v2"), INDEX)
    assert read(bound.show(DIGEST, 0, 1, 0), 0, 1) == LARGE[:1]
    first = lazies.open(liar.reference)
    assert shows_a_lie(first)
    liar.goes_on.set()
    wait_for(lambda: is_poisoned(first))
    liar.repents()
    assert not shows_a_lie(bound)
    assert bound.poisoned() == []


def test_true_bytes_that_come_by_another_file_are_read_from_that(lazies: Lazies, liar: Liar) -> None:
    liar.lies = False
    replaced: list[Digest] = []
    lazies.trees.listen_replaced(lambda _, digest: replaced.append(digest))
    tree = lazies.open(liar.reference)
    assert not shows_a_lie(tree)
    lazies.pull(liar.artifact("t/other", [Layer(content=LARGE, title="model")]))
    liar.goes_on.set()
    wait_for(lambda: replaced == [DIGEST])
    assert tree.poisoned() == []
    assert read(tree.show(DIGEST, 0, len(LARGE), 0), 0, len(LARGE)) == LARGE
