"""Pulls that nobody wants any more: they end where bytes arrive and leave nothing, and what others want goes on."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csi_oras.errors import ArtifactNotFoundError, UnwantedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Reference
from csi_oras.transfer.demand import Demand
from csi_oras.transfer.jobs import GRACE_SECONDS, Job, Jobs
from csi_oras.transfer.turns import Turns
from tests.support.artifacts import Layer
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import header, status
from tests.support.gate import Gate
from tests.support.pods import Held, wait_for
from tests.support.pulling import Clock, Counted, Pulling, drip
from tests.support.stores import content_store

pytest_plugins = ["tests.support.fake_fixtures"]

_MIB = 1 << 20
_POD, _OTHER = ("volume-1", "/target-1"), ("volume-2", "/target-2")
_RANGES = 4


@pytest.fixture
def pulling(tmp_path: Path) -> Iterator[Pulling]:
    running = Pulling(tmp_path, f"rangeBytes: 1Mi, parallelBlobs: 1, parallelRanges: {_RANGES}")
    yield running
    running.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Iterator[Jobs[str]]:
    turns = Turns("test", 8)
    yield Jobs(turns, clock)
    turns.close()


def layer(size: int, title: str = "x") -> Layer:
    return Layer(content=os.urandom(size), title=title)


def has(pulling: Pulling, content: bytes) -> bool:
    return pulling.app.content.has(Descriptor.of(content, "x"))


def through(gate: Gate, fake: FakeRegistry, layers: list[Layer], tag: str = "v1") -> str:
    fake.artifact("r", layers, tag=tag)
    return f"{gate.address}/r:{tag}"


def waiting_work(release: threading.Event) -> Callable[[Job[str]], str]:
    def work(_job: Job[str]) -> str:
        assert release.wait(30)
        return "done"

    return work


# -- who wants a job


def test_job_is_wanted_until_some_time_after_the_last_has_left(jobs: Jobs[str], clock: Clock) -> None:
    release = threading.Event()
    job = jobs.join("key", "registry", waiting_work(release), _POD)
    jobs.join("key", "registry", waiting_work(release), _OTHER)
    jobs.leave(_POD)
    clock.now += 100 * GRACE_SECONDS
    assert jobs.demand(job) is Demand.FOREGROUND
    jobs.leave(_OTHER)
    clock.now += GRACE_SECONDS - 1
    assert jobs.demand(job) is not Demand.NONE
    clock.now += 2
    assert jobs.demand(job) is Demand.NONE
    release.set()


def test_job_that_somebody_joins_in_time_goes_on(jobs: Jobs[str], clock: Clock) -> None:
    release = threading.Event()
    job = jobs.join("key", "registry", waiting_work(release), _POD)
    jobs.leave(_POD)
    clock.now += GRACE_SECONDS - 1
    assert jobs.join("key", "registry", waiting_work(release), _OTHER) is job
    clock.now += 2
    assert jobs.demand(job) is Demand.FOREGROUND
    release.set()


def test_job_of_nobody_in_particular_is_always_wanted(jobs: Jobs[str], clock: Clock) -> None:
    release = threading.Event()
    job = jobs.join("key", "registry", waiting_work(release), _POD)
    jobs.join("key", "registry", waiting_work(release), demand=Demand.BACKGROUND)
    assert jobs.demand(job) is Demand.FOREGROUND
    jobs.leave(_POD)
    clock.now += 100 * GRACE_SECONDS
    assert jobs.demand(job) is Demand.BACKGROUND
    release.set()


def test_job_that_was_not_wanted_is_never_joined_again(jobs: Jobs[str], clock: Clock) -> None:
    release = threading.Event()
    job = jobs.join("key", "registry", waiting_work(release), _POD)
    jobs.leave(_POD)
    clock.now += GRACE_SECONDS + 1
    assert jobs.demand(job) is Demand.NONE
    another = jobs.join("key", "registry", waiting_work(release), _POD)
    assert another is not job
    assert jobs.demand(job) is Demand.NONE
    release.set()
    assert another.future.result(30) == "done"


def test_outcome_that_nobody_is_left_to_hear_is_not_kept(jobs: Jobs[str]) -> None:
    for leaves_before in (True, False):
        release = threading.Event()
        job = jobs.join("key", "registry", waiting_work(release), _POD)
        if leaves_before:
            jobs.leave(_POD)
        release.set()
        assert job.future.result(30) == "done"
        jobs.leave(_POD)
        again = jobs.join("key", "registry", waiting_work(release), _OTHER)
        assert again is not job
        again.future.result(30)
        jobs.leave(_OTHER)


def test_job_that_nobody_wants_when_its_turn_comes_is_not_begun(clock: Clock) -> None:
    turns = Turns("test", 1)
    jobs: Jobs[str] = Jobs(turns, clock)
    release = threading.Event()
    first = jobs.join("first", "registry", waiting_work(release))
    second = jobs.join("second", "registry", lambda _job: "begun", _POD)
    jobs.leave(_POD)
    clock.now += GRACE_SECONDS + 1
    release.set()
    assert first.future.result(30) == "done"
    with pytest.raises(UnwantedError):
        second.future.result(30)
    assert jobs.running == 0
    turns.close()


# -- what is left of a pull


@pytest.mark.parametrize(
    ("size", "before"), [(_MIB - 1, _MIB // 2), (20 * _MIB, 7 * _MIB // 8)], ids=["small", "ranged"]
)
def test_pull_that_nobody_wants_leaves_nothing_and_asks_for_nothing_more(
    pulling: Pulling, gate: Gate, fake: FakeRegistry, size: int, before: int
) -> None:
    reference = through(gate, fake, [layer(size)])
    gate.hold_after(before)
    job = pulling.start(reference, _POD)
    gate.wait_until_held()
    asked = min(_RANGES, -(-size // _MIB))
    wait_for(lambda: fake.count("/blobs/") == asked)
    assert pulling.unfinished != []
    pulling.leave(_POD)
    drip(gate, job.future.done)
    with pytest.raises(UnwantedError, match="nobody wants it any more"):
        job.future.result()
    gate.open()
    pulling.assert_nothing_left()
    assert fake.count("/blobs/") == asked


def test_connections_that_break_are_not_asked_for_again(pulling: Pulling, fake: FakeRegistry) -> None:
    held = Held()
    fake.bend("/blobs/", held)
    fake.bend("/manifests/", header(Connection="close"))  # a kept connection that breaks is no failure yet
    job = pulling.start(fake.artifact("r", [layer(20 * _MIB)]), _POD)
    wait_for(lambda: fake.count("/blobs/") == _RANGES)
    pulling.leave(_POD)
    fake.drop_connections()
    with pytest.raises(UnwantedError):
        job.future.result(30)
    pulling.assert_nothing_left()
    assert fake.count("/blobs/") == _RANGES
    held.release()


def test_blobs_that_wait_are_never_asked_for(pulling: Pulling, gate: Gate, fake: FakeRegistry) -> None:
    layers = [layer(5 * _MIB, f"f{number}") for number in range(10)]
    reference = through(gate, fake, layers)
    gate.hold_after(3 * _MIB)
    job = pulling.start(reference, _POD)
    gate.wait_until_held()
    pulling.leave(_POD)
    drip(gate, job.future.done)
    gate.open()
    pulling.assert_nothing_left()
    assert len({request.path for request in fake.seen("/blobs/")}) == 1


def test_blob_that_is_finished_stays_and_a_later_pull_goes_on_from_it(
    pulling: Pulling, gate: Gate, fake: FakeRegistry
) -> None:
    small, large = layer(1000, "small"), layer(20 * _MIB, "large")
    reference = through(gate, fake, [small, large])
    gate.hold_after(3 * _MIB)
    job = pulling.start(reference, _POD)
    gate.wait_until_held()
    wait_for(lambda: has(pulling, small.content))
    pulling.leave(_POD)
    drip(gate, job.future.done)
    gate.open()
    pulling.assert_nothing_left()
    assert has(pulling, small.content)
    again = pulling.start(reference, _POD)
    assert again is not job
    pulled = again.future.result(60)
    assert (pulled.path / "large").read_bytes() == large.content
    assert fake.count(f"/blobs/{Descriptor.of(small.content, 'x').digest}") == 1


def test_pull_that_another_pod_wants_goes_on(pulling: Pulling, gate: Gate, fake: FakeRegistry) -> None:
    content = layer(20 * _MIB)
    reference = through(gate, fake, [content])
    gate.hold_after(3 * _MIB)
    job = pulling.start(reference, _POD)
    wait_for(lambda: job.progress.done > 0)
    assert pulling.start(reference, _OTHER) is job
    assert job.progress.done < job.progress.total == 20 * _MIB
    pulling.leave(_POD)
    gate.open()
    assert (job.future.result(60).path / "x").read_bytes() == content.content
    assert fake.count("/blobs/") == 20


def test_blob_that_another_pull_wants_goes_on_and_the_others_end(
    pulling: Pulling, gate: Gate, fake: FakeRegistry
) -> None:
    shared, own, theirs = layer(20 * _MIB, "shared"), layer(5 * _MIB, "own"), layer(1000, "theirs")
    first, second = through(gate, fake, [shared, own], "first"), through(gate, fake, [shared, theirs], "second")
    gate.hold_after(3 * _MIB)
    job = pulling.start(first, _POD)
    wait_for(lambda: job.progress.done > 0)
    another = pulling.start(second, _OTHER)
    drip(gate, lambda: another.progress.done > 0)
    pulling.leave(_POD)
    drip(gate, job.future.done)
    with pytest.raises(UnwantedError):
        job.future.result()
    gate.open()
    pulled = another.future.result(60)
    assert (pulled.path / "shared").read_bytes() == shared.content
    assert fake.count(f"/blobs/{Descriptor.of(shared.content, 'x').digest}") == 20
    pulling.assert_nothing_left()
    assert fake.count(f"/blobs/{Descriptor.of(own.content, 'x').digest}") == 0


def test_blobs_of_a_pull_that_failed_go_on_as_long_as_the_pod_is_there(
    pulling: Pulling, gate: Gate, fake: FakeRegistry
) -> None:
    absent, large = layer(1000, "absent"), layer(20 * _MIB, "large")
    reference = through(gate, fake, [large, absent])
    fake.bend(f"/blobs/{Descriptor.of(absent.content, 'x').digest}", status(404))
    gate.hold_after(_MIB // 2)
    job = pulling.start(reference, _POD)
    gate.wait_until_held()
    drip(gate, job.future.done)
    with pytest.raises(ArtifactNotFoundError):
        job.future.result()
    pulling.clock.now += 100 * GRACE_SECONDS
    gate.open()
    wait_for(lambda: has(pulling, large.content))


def test_blobs_of_a_pull_that_failed_end_with_the_pod(pulling: Pulling, gate: Gate, fake: FakeRegistry) -> None:
    absent, large = layer(1000, "absent"), layer(20 * _MIB, "large")
    reference = through(gate, fake, [large, absent])
    fake.bend(f"/blobs/{Descriptor.of(absent.content, 'x').digest}", status(404))
    gate.hold_after(_MIB // 2)
    job = pulling.start(reference, _POD)
    gate.wait_until_held()
    drip(gate, job.future.done)
    pulling.leave(_POD)
    drip(gate, lambda: pulling.has_ended)
    pulling.assert_nothing_left()


def test_proof_that_nobody_wants_is_not_begun(pulling: Pulling, fake: FakeRegistry) -> None:
    contents = [layer(1000, f"f{number}") for number in range(2 * _RANGES)]
    pulling.start(fake.artifact("one", contents)).future.result(60)
    counted = Counted()
    fake.bend("/other/blobs/", counted)
    job = pulling.start(fake.artifact("other", contents), _POD)
    counted.wait_for(_RANGES)
    pulling.leave(_POD)
    counted.release()
    with pytest.raises(UnwantedError):
        job.future.result(60)
    pulling.assert_nothing_left()
    assert fake.count("/other/blobs/") == _RANGES


def test_pull_that_waits_for_what_another_process_fetches_ends_and_leaves_that_alone(
    pulling: Pulling, fake: FakeRegistry
) -> None:
    content = layer(1000)
    reference = fake.artifact("r", [content])
    paths, source = pulling.app.paths, str(Reference.parse(reference).repository)
    theirs = content_store(paths).ingest(Descriptor.of(content.content, "x"), source)
    assert theirs is not None
    job = pulling.start(reference, _POD)
    wait_for(lambda: job.progress.total > 0)
    assert not job.future.done()
    pulling.leave(_POD)
    with pytest.raises(UnwantedError):
        job.future.result(30)
    wait_for(lambda: pulling.has_ended)
    assert len(pulling.unfinished) == 1
    assert fake.count("/blobs/") == 0
    theirs.remove()
    pulling.assert_nothing_left()
