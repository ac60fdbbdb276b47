"""Patience of lazy reads: what can only be shown when it is whole is waited for as long as it comes, and no longer."""

import json
import os
import queue
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from csi_oras.errors import RegistryUnavailableError
from csi_oras.lazy import tree as lazy_tree
from csi_oras.lazy.blob import LazyBlob, Shown
from csi_oras.lazy.patience import PATIENCE_SECONDS, Patience
from csi_oras.lazy.server import LazyServer
from csi_oras.lazy.tree import LazyTree
from csi_oras.oci.digest import Digest
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.gate import Gate
from tests.support.lazies import MIB, Lazies, credential_of, index_of, read
from tests.support.pods import wait_for

pytest_plugins = ["tests.support.lazy_fixtures"]
LARGE, SMALL = os.urandom(24 * MIB), os.urandom(4 * MIB)
_STEP_BYTES = 640 << 10
"""What a gate lets through at a time, more than is counted at once."""
ALICE, BOB = credential_of("alice", "alice-knows"), credential_of("bob", "bob-knows")


class Clock:
    """A clock that stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def goes_on(self, seconds: float = 1.0) -> bool:
        self.now += seconds
        return False


class Slow:
    """A lazy tree of one blob, of a registry behind a gate, and the clock by which it is waited for."""

    def __init__(self, lazies: Lazies, clock: Clock, content: bytes) -> None:
        self.lazies, self.clock, self.content = lazies, clock, content
        self.fake = FakeRegistry()
        self.gate = Gate(self.fake.address)
        self.told: queue.Queue[str] = queue.Queue()
        """Who has heard that it is still coming."""
        self.reference = self.fake.artifact("t/x", [Layer(content=content, title="f")])

    def open(self, **options: Any) -> LazyTree:
        return self.lazies.open(self.reference.replace(self.fake.address, self.gate.address), **options)

    @contextmanager
    def reading(self, tree: LazyTree, name: str = "") -> Iterator[Future[Shown]]:
        """Read the end of the blob meanwhile."""
        size = len(self.content)
        with ThreadPoolExecutor(1) as pool:
            try:
                yield pool.submit(
                    tree.show, Digest.of(self.content), size - 9, size, 0, still_coming=lambda: self.told.put(name)
                )
            finally:
                self.clock.now += 1000 * PATIENCE_SECONDS
                self.gate.open()

    def trickle(self, name: str = "") -> None:
        """Let bytes through until somebody has waited for far longer than his patience."""
        # the first answers may bring nothing: where it is found out that there are no ranges
        seconds = PATIENCE_SECONDS * (0.4 if self.content is SMALL else 0.1)
        for _ in range(int(PATIENCE_SECONDS * 2 / seconds)):
            wait_for(lambda: self._has_told(name, seconds))

    def _has_told(self, name: str, seconds: float) -> bool:
        self.gate.wait_until_held()
        self.clock.now += seconds
        self.gate.hold_after(_STEP_BYTES)
        with suppress(queue.Empty):
            while self.told.get(timeout=1) != name:
                continue
            return True
        return False

    def check(self, shown: Shown) -> None:
        """Hold what is shown against the truth."""
        size = len(self.content)
        assert read(shown, size - 9, size) == self.content[-9:]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lazy_tree, "LazyBlob", partial(LazyBlob, clock=made))
    return made


@pytest.fixture(params=[LARGE, SMALL], ids=["no ranges", "a small blob"])
def slow(lazies: Lazies, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Slow]:
    made = Slow(lazies, clock, request.param)
    made.fake.serves_ranges = False
    with made.fake, made.gate:
        yield made


def test_patience_begins_anew_only_with_more_than_ever_before() -> None:
    clock, told = Clock(), queue.Queue[None]()
    patience = Patience(clock, lambda: told.put(None))
    for done in (5, 3, 5):
        clock.now += PATIENCE_SECONDS / 2
        patience.renew(done)
    assert patience.is_over
    patience = Patience(clock, lambda: told.put(None))
    for done in range(1, 12):
        clock.now += PATIENCE_SECONDS / 2
        patience.renew(done)
        assert not patience.is_over
    assert told.qsize() == 12


def test_patience_says_seldom_that_it_begins_anew() -> None:
    clock, told = Clock(), queue.Queue[None]()
    patience = Patience(clock, lambda: told.put(None))
    for done in range(1, 101):
        clock.now += 0.1
        patience.renew(done)
    assert told.qsize() <= 2


def test_blob_that_comes_only_whole_is_waited_for_while_it_comes(slow: Slow) -> None:
    tree = slow.open()
    slow.gate.hold_after(_STEP_BYTES)
    with slow.reading(tree) as shown:
        slow.trickle()
        assert not shown.done()
        slow.gate.open()
        slow.check(shown.result(60))


def test_blob_that_comes_only_whole_and_stops_is_an_error_in_time(slow: Slow) -> None:
    tree = slow.open()
    slow.gate.hold_after(_STEP_BYTES)
    with slow.reading(tree) as shown:
        slow.trickle()
        wait_for(lambda: slow.clock.goes_on() or shown.done())
        with pytest.raises(RegistryUnavailableError):
            shown.result(0)


def test_reader_with_another_credential_waits_as_long(lazies: Lazies, clock: Clock) -> None:
    slow = Slow(lazies, clock, LARGE)
    slow.fake.serves_ranges = False
    for who in (ALICE, BOB):
        slow.fake.require_basic(who.username, who.password.reveal())
    with slow.fake, slow.gate:
        first, second = (slow.open(credential=who) for who in (ALICE, BOB))
        slow.gate.hold_after(_STEP_BYTES)
        with slow.reading(first, "first") as shown, slow.reading(second, "second") as also_shown:
            slow.trickle("second")
            slow.gate.open()
            slow.check(shown.result(60))
            slow.check(also_shown.result(60))


def test_piece_that_never_comes_is_an_error_in_time_where_others_do(lazies: Lazies, clock: Clock) -> None:
    slow = Slow(lazies, clock, LARGE)
    with slow.fake, slow.gate:
        tree = slow.open(index=index_of(LARGE))
        end = len(LARGE) - 1
        slow.fake.bend(
            "/blobs/",
            lambda request, answer: status(503)(request, answer) if str(end) in request.headers["Range"] else answer,
        )
        with slow.reading(tree) as shown:
            wait_for(lambda: clock.goes_on(0.3) or shown.done())
            with pytest.raises(RegistryUnavailableError):
                shown.result(0)
    assert slow.told.empty()


def test_processes_that_understand_it_are_told_to_wait_and_others_get_only_their_answer(slow: Slow) -> None:
    tree = slow.open()
    LazyServer(slow.lazies.trees, lambda _: None).start()
    slow.gate.hold_after(_STEP_BYTES)
    new, old = _Process(slow, tree, understands=["wait"]), _Process(slow, tree)
    for process in (new, old):
        process.need()
    with ThreadPoolExecutor(1) as pool:
        hearing = pool.submit(new.wait, slow.told)
        slow.trickle()
        slow.gate.open()
        for answer in (hearing.result(60), old.hear()):
            assert (answer["id"], answer["start"], answer["end"]) == (1, 0, len(slow.content))
    for process in (new, old):
        process.close()


class _Process:
    """A FUSE process as the driver sees it."""

    def __init__(self, slow: Slow, tree: LazyTree, **hello: Any) -> None:
        self._content = slow.content
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(60)
        self._socket.connect(str(slow.lazies.trees.kept.socket))
        self._say({"op": "hello", "tree": tree.artifact.tree, **hello})

    def _say(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode())

    def need(self) -> None:
        blob, size = str(Digest.of(self._content)), len(self._content)
        self._say({"op": "need", "id": 1, "blob": blob, "start": size - 9, "end": size, "have": 0})

    def hear(self) -> dict[str, Any]:
        content, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 4)
        for descriptor in descriptors:
            os.close(descriptor)
        message: dict[str, Any] = json.loads(content)
        return message

    def wait(self, told: "queue.Queue[str]") -> dict[str, Any]:
        """Return the answer; tell whenever that is still coming."""
        while (message := self.hear()) == {"id": 1, "wait": True}:
            told.put("")
        return message

    def close(self) -> None:
        self._socket.close()
