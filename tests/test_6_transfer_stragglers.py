"""Stragglers: a range that gives far less than the others is cut off and asked for again elsewhere."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from csi_oras.errors import RegistryUnavailableError
from csi_oras.registry.pace import Peer
from csi_oras.transfer.stragglers import MOST_CUTS, WINDOW_SECONDS, CutOffError, Reader, Stragglers
from tests.support.artifacts import Layer
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Request, stalled
from tests.support.hosts import CertsD
from tests.support.pods import asked_for, drip
from tests.support.volume import Volume

pytest_plugins = ["tests.support.fake_fixtures"]

_MIB = 1 << 20
_CALL_SECONDS = 25
"""Less than the 30 s after which a connection that gives nothing at all is given up."""


class FakePeer(Peer):
    """A peer that gives what a test says."""

    waited = 0.0

    def __init__(self) -> None:
        self.received = 0
        self.cuts = 0

    def give(self, count: int, waited: float = WINDOW_SECONDS) -> None:
        self.received += count
        self.waited += waited

    def cut_off(self) -> None:
        self.cuts += 1

    def close(self) -> None:
        """There is nothing to close."""


class Watch:
    """Readers of one blob, each with a peer, and a clock."""

    def __init__(self, count: int) -> None:
        self.now = 100.0
        self.stragglers = Stragglers(lambda: self.now)
        self.blocks = [ExitStack() for _ in range(count)]
        self.readers: list[Reader] = [block.enter_context(self.stragglers.watched()) for block in self.blocks]
        self.peers = [self.begin(number) for number in range(count)]

    def begin(self, number: int) -> FakePeer:
        peer = FakePeer()
        self.blocks[number].enter_context(self.readers[number].reading(peer))
        return peer

    def after(self, seconds: float, *counts: int) -> list[int]:
        """Let time pass in which peers give so much, and say how often each has been cut off then."""
        for peer, count in zip(self.peers, counts, strict=False):
            peer.give(count, seconds)
        self.now += seconds
        self.stragglers.look()
        return [peer.cuts for peer in self.peers]


@pytest.fixture
def watch() -> Watch:
    return Watch(4)


def test_reader_that_gets_far_less_than_the_others_is_cut_off(watch: Watch) -> None:
    assert watch.after(WINDOW_SECONDS, 100, 80, 120, 10) == [0, 0, 0, 1]


def test_readers_that_are_equally_slow_are_never_cut_off(watch: Watch) -> None:
    for _ in range(100):
        assert watch.after(WINDOW_SECONDS, 1, 1, 1, 1) == [0] * 4
        assert watch.after(WINDOW_SECONDS, 0, 0, 0, 0) == [0] * 4


def test_reader_that_gets_a_fair_share_of_one_line_is_not_cut_off(watch: Watch) -> None:
    assert watch.after(WINDOW_SECONDS, 100, 100, 100, 20) == [0] * 4


def test_nobody_is_judged_before_a_window_is_over(watch: Watch) -> None:
    assert watch.after(WINDOW_SECONDS - 1, 100, 100, 100, 0) == [0] * 4


def test_line_that_becomes_slow_for_all_cuts_nobody_off(watch: Watch) -> None:
    assert watch.after(WINDOW_SECONDS, *[10_000] * 4) == [0] * 4
    assert watch.after(WINDOW_SECONDS, *[1] * 4) == [0] * 4


def test_reader_whose_peer_was_not_waited_for_is_not_cut_off(watch: Watch) -> None:
    watch.peers[3].waited -= WINDOW_SECONDS / 2  # the rest of the time went to a disk, or to the limit of all pulls
    assert watch.after(WINDOW_SECONDS, 100, 100, 100, 0) == [0] * 4


def test_last_of_all_is_compared_with_those_who_have_ended(watch: Watch) -> None:
    for peer, block in list(zip(watch.peers, watch.blocks, strict=True))[:3]:
        peer.give(1_000_000)
        watch.now += 0.1
        block.close()
    assert watch.after(WINDOW_SECONDS, 0, 0, 0, 10)[3] == 1


def test_one_alone_is_never_cut_off() -> None:
    watch = Watch(1)
    assert watch.after(WINDOW_SECONDS, 0) == [0]


def test_cuts_of_one_blob_come_to_an_end(watch: Watch) -> None:
    for _ in range(MOST_CUTS + 10):
        cuts = watch.after(WINDOW_SECONDS, 100, 100, 100, 0)
    assert cuts == [0, 0, 0, MOST_CUTS]


def test_end_of_what_was_cut_off_is_no_failure_of_the_registry_and_any_other_is(watch: Watch) -> None:
    broken, reader = RegistryUnavailableError("x", "broke off"), watch.readers[3]
    watch.after(WINDOW_SECONDS, 100, 100, 100, 0)
    with pytest.raises(CutOffError):
        watch.blocks[3].__exit__(RegistryUnavailableError, broken, None)
    with pytest.raises(RegistryUnavailableError), reader.reading(FakePeer()):
        raise broken


# -- with a real driver


@pytest.fixture
def certs(short_path: Path) -> CertsD:
    return CertsD(short_path / "certs.d")


@pytest.fixture
def volume(short_path: Path, certs: CertsD) -> Iterator[Volume]:
    """A volume of a driver that fetches ranges of 1 MiB."""
    policy = short_path / "policy.yaml"
    policy.write_text(f"registries: {{hostsDirs: [{certs.root}]}}\npulls: {{rangeBytes: 1Mi, parallelRanges: 4}}\n")
    with Driver(short_path, "--config", str(policy)) as driver:
        volume = Volume(driver)
        yield volume
        volume.unpublish()


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


def start_of(request: Request) -> int:
    return int(str(request.headers["Range"]).removeprefix("bytes=").partition("-")[0])


@pytest.mark.needs("root")
def test_range_that_stalls_goes_on_from_its_last_byte_over_another_connection(
    volume: Volume, fake: FakeRegistry
) -> None:
    content, given = os.urandom(8 * _MIB), 100_000
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    fake.bend("/blobs/", stalled(given), times=1)
    volume.publish(reference=reference, timeout=_CALL_SECONDS)
    assert (volume.target / "x").read_bytes() == content
    asked = [request for request in fake.seen("/blobs/") if "Range" in request.headers]
    assert len(asked) == 9
    last = asked[-1]
    assert sum(asked_for(request, 0) for request in asked) == len(content) + asked_for(last, 0)
    assert start_of(last) % _MIB == given
    assert last.connection != next(item for item in asked if start_of(item) == start_of(last) - given).connection


@pytest.mark.needs("root")
def test_range_that_stalls_at_a_mirror_goes_on_at_the_next_host(
    volume: Volume, fake: FakeRegistry, mirror: FakeRegistry, certs: CertsD
) -> None:
    content, given = os.urandom(8 * _MIB), 100_000
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    mirror.blobs, mirror.manifests = fake.blobs, fake.manifests
    certs.write(fake.address, f'[host."http://{mirror.address}"]\n')
    mirror.bend("/blobs/", stalled(given), times=1)
    volume.publish(reference=reference, timeout=_CALL_SECONDS)
    assert (volume.target / "x").read_bytes() == content
    assert [start_of(request) % _MIB for request in fake.seen("/blobs/")] == [given]
    assert mirror.count("/blobs/") == 8


@pytest.mark.needs("root")
def test_several_ranges_that_drip_at_once_are_each_cut_off_once(volume: Volume, fake: FakeRegistry) -> None:
    content = b"x" * (8 * _MIB)  # what drips is honest, too
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    fake.bend("/blobs/", drip, times=3)
    volume.publish(reference=reference, timeout=_CALL_SECONDS)
    assert (volume.target / "x").read_bytes() == content
    asked = fake.seen("/blobs/")
    assert len(asked) == 8 + 3
    assert sum(start_of(request) % _MIB > 0 for request in asked) == 3
    assert sum(asked_for(request, 0) for request in asked) < len(content) + 3 * _MIB
