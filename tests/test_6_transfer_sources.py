"""Sources: each repository is asked by itself, and nobody waits for one that he did not name."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.fake_server import status
from tests.support.pods import Held, Pods, Pulls, asked_for, done, drip, fetched, wait_for, zeros

pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20
_SIZES = pytest.mark.parametrize("size", [200_000, 5 * _MIB], ids=["small", "ranged"])
_ALICE, _BOB = ({"username": name, "password": "correct horse"} for name in ("alice", "bob"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of ranges of 1 MiB."""
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text("pulls: {rangeBytes: 1Mi, parallelRanges: 4}\n")
    return path


@pytest.fixture(scope="module")
def ranging(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Iterator[Driver]:
    with Driver(tmp_path_factory.mktemp("d"), "--config", str(policy)) as running:
        yield running


@pytest.fixture
def good() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def bad() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def pods(ranging: Driver) -> Iterator[Pods]:
    with ThreadPoolExecutor(20) as pool:
        running = Pods(ranging, pool)
        yield running
        running.end()


@_SIZES
def test_registry_that_drips_a_blob_holds_up_nobody_who_did_not_name_it(
    pods: Pods, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    bad.bend(sha256(layer.content), drip)
    slow = pods.start(bad.artifact("r", [layer]))
    wait_for(lambda: bad.count(sha256(layer.content)) > 0)
    fast = pods.publish(good.artifact("r", [layer]), timeout=30)
    assert (fast / "x").read_bytes() == layer.content
    assert not slow.done()


@_SIZES
def test_source_that_is_overtaken_has_to_show_every_byte_of_the_blob(
    pods: Pods, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer, held = Layer(content=os.urandom(size), title="x"), Held()
    bad.bend(sha256(layer.content), held)
    slow = pods.start(bad.artifact("r", [layer]))
    held.wait()
    fast = pods.publish(good.artifact("r", [layer]), timeout=30)
    held.release()
    assert (slow.result(30) / "x").stat().st_ino == (fast / "x").stat().st_ino
    assert asked_for(bad.seen(sha256(layer.content))[-1], size) == size


@_SIZES
def test_source_that_is_overtaken_and_has_not_the_blob_shows_nothing_of_it(
    pods: Pods, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer, held = Layer(content=os.urandom(size), title="x"), Held(zeros)
    thief = bad.artifact("r", [layer])
    bad.bend(sha256(layer.content), held)
    stolen = pods.start(thief)
    held.wait()
    pods.publish(good.artifact("r", [layer]), timeout=30)
    held.release()
    with refused(grpc.StatusCode.DATA_LOSS, thief, "layer 0 (x)"):
        stolen.result(30)


@_SIZES
def test_registry_with_wrong_bytes_and_a_good_one_at_once_are_each_answered_for(
    pods: Pods, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    lie, truth = bad.artifact("r", [layer]), good.artifact("r", [layer])
    lies, truths = Held(zeros), Held()
    bad.bend(sha256(layer.content), lies)
    good.bend(sha256(layer.content), truths)
    liar, honest = pods.start(lie), pods.start(truth)
    lies.wait()
    truths.wait()
    lies.release()
    with refused(grpc.StatusCode.DATA_LOSS, lie, "layer 0 (x)", "digest"):
        liar.result(30)
    truths.release()
    assert (honest.result(30) / "x").read_bytes() == layer.content


@_SIZES
def test_two_good_registries_at_once_are_both_read_and_share_one_blob(
    pods: Pods, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    digest, sources = sha256(layer.content), (good, bad)
    held = [Held(), Held()]
    for source, hold in zip(sources, held, strict=True):
        source.bend(digest, hold)
    calls = [pods.start(source.artifact("r", [layer])) for source in sources]
    for hold in held:
        hold.wait()
    for hold in held:
        hold.release()
    inodes = {(call.result(30) / "x").stat().st_ino for call in calls}
    assert len(inodes) == 1
    assert (calls[0].result() / "x").read_bytes() == layer.content


@_SIZES
def test_twenty_publishes_of_one_artifact_at_once_ask_for_each_blob_once(
    pods: Pods, good: FakeRegistry, size: int
) -> None:
    layers = [Layer(content=os.urandom(size), title=name) for name in "ab"]
    held = Held()
    good.bend("/blobs/", held)
    reference = good.artifact("r", layers)
    # several artifacts of one repository: what they share is fetched once, too
    parts = [good.artifact("r", [layer], tag=layer.title or "") for layer in layers]
    calls = [pods.start(name) for name in (reference, *parts) * 7]
    held.wait()
    wait_for(lambda: good.count("/manifests/") >= 3)
    held.release()
    for call in calls:
        call.result(30)
    assert [fetched(good.seen(sha256(layer.content)), size) for layer in layers] == [size] * 2


@_SIZES
def test_credential_that_fails_is_no_failure_of_another_in_the_same_repository(
    pods: Pods, good: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    reference = good.artifact("r", [layer])
    for user in (_ALICE, _BOB):
        good.require_basic(user["username"], user["password"])
    denied = Held(status(403))
    alices = basic(_ALICE["username"], _ALICE["password"])
    good.bend(
        sha256(layer.content),
        lambda request, answer: denied(request, answer) if request.authorization == alices else answer,
    )
    alice = pods.start(reference, secrets=_ALICE)
    denied.wait()
    bob = pods.start(reference, secrets=_BOB)
    wait_for(lambda: good.count("/manifests/") >= 4)  # each asks without, and then with his credential
    denied.release()
    with refused(grpc.StatusCode.PERMISSION_DENIED, reference):
        alice.result(30)
    assert (bob.result(30) / "x").read_bytes() == layer.content


@_SIZES
def test_two_credentials_at_once_fetch_a_blob_once_and_both_show_that_they_may(
    pods: Pods, good: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    digest, reference = sha256(layer.content), good.artifact("r", [layer])
    for user in (_ALICE, _BOB):
        good.require_basic(user["username"], user["password"])
    held = Held()
    good.bend(digest, held)
    calls = [pods.start(reference, secrets=user) for user in (_ALICE, _BOB)]
    held.wait()
    wait_for(lambda: good.count("/manifests/") >= 4)
    held.release()
    for call in calls:
        assert (call.result(30) / "x").read_bytes() == layer.content
    served = [request for request in good.seen(digest) if request.authorization]
    assert fetched(served, size) == size
    assert len({request.authorization for request in served}) == 2


@_SIZES
def test_manifest_that_is_wrong_about_a_size_fails_no_other_of_its_repository(
    pods: Pods, good: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    wrong = good.artifact("r", [replace(layer, claims={"size": size + 1})], tag="wrong")
    right = good.artifact("r", [layer], tag="right")
    held = Held()
    good.bend(sha256(layer.content), held)
    first = pods.start(wrong)
    held.wait()
    second = pods.start(right)
    wait_for(lambda: good.count("/manifests/right") > 0)
    held.release()
    with refused(grpc.StatusCode.DATA_LOSS, wrong):
        first.result(30)
    assert (second.result(30) / "x").read_bytes() == layer.content


# -- two processes on one store


@pytest.fixture
def pulls(tmp_path: Path, policy: Path) -> Iterator[Pulls]:
    running = Pulls(tmp_path / "state", policy)
    yield running
    running.end()


@_SIZES
def test_two_processes_that_pull_one_artifact_fetch_it_once(pulls: Pulls, good: FakeRegistry, size: int) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    reference, held = good.artifact("r", [layer]), Held()
    good.bend(sha256(layer.content), held)
    both = [pulls.start(reference) for _ in range(2)]
    wait_for(lambda: good.count("/manifests/") >= 2)
    held.release()
    for process in both:
        done(process)
    assert fetched(good.seen(sha256(layer.content)), size) == size


@_SIZES
def test_process_that_pulls_drops_holds_up_no_other(
    pulls: Pulls, good: FakeRegistry, bad: FakeRegistry, size: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x")
    bad.bend(sha256(layer.content), drip)
    slow = pulls.start(bad.artifact("r", [layer]))
    wait_for(lambda: bad.count(sha256(layer.content)) > 0)
    done(pulls.start(good.artifact("r", [layer])), seconds=60)
    assert slow.poll() is None
