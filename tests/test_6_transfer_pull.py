"""Pulls through the real driver from a real registry, counted at the registry."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, sha256
from tests.support.driver import Driver

pytestmark = pytest.mark.needs("root", "registry")
_RANGE = 1 << 20
_SIZES = (0, 1, _RANGE - 1, _RANGE, _RANGE + 1, 3 * _RANGE, 7 * _RANGE + 12_345)


@pytest.fixture
def ranging(short_path: Path) -> Iterator[Driver]:
    """A driver that fetches ranges of 1 MiB."""
    policy = short_path / "policy.yaml"
    policy.write_text("pulls: {rangeBytes: 1Mi, parallelRanges: 4, parallelBlobs: 2}\n")
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


def test_blobs_of_every_size_around_a_range_arrive_as_they_are(
    ranging: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    contents = {f"f{size}": os.urandom(size) for size in _SIZES}
    reference = pusher.artifact(repository, [Layer(content=data, title=name) for name, data in contents.items()])
    target = ranging.target()
    ranging.publish(target, reference=reference)
    for name, data in contents.items():
        assert (target / name).read_bytes() == data, name
    large = AccessLog(registry, repository).gets(sha256(contents[f"f{_SIZES[-1]}"]), count=8)
    assert [request.status for request in large] == [206] * 8
    assert sum(request.sent for request in large) == _SIZES[-1]
    ranging.unpublish(target)


def test_fifty_publishes_at_once_fetch_each_blob_once(
    driver: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    layers = [Layer(content=os.urandom(200_000 + number), title=f"f{number}") for number in range(5)]
    reference = pusher.artifact(repository, layers)
    targets = [driver.target(pod=f"pod-{number}") for number in range(50)]

    def publish(number: int) -> None:
        driver.publish(targets[number], volume_id=f"v{number}", reference=reference)

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(publish, range(50)))
    log = AccessLog(registry, repository)
    assert [len(log.gets(sha256(layer.content))) for layer in layers] == [1] * 5
    assert len(log.gets("v1")) == 1
    for target in targets:
        assert {path.name for path in target.iterdir()} == {f"f{number}" for number in range(5)}
    assert len(driver.mounts()) == 50
    for number, target in enumerate(targets):
        driver.unpublish(target, volume_id=f"v{number}")
    assert driver.mounts() == []


def test_publishes_of_different_parts_at_once_fetch_each_blob_once(
    driver: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    layers = [Layer(content=os.urandom(300_000), title=f"f{number}") for number in range(4)]
    reference = pusher.artifact(repository, layers)
    targets = [driver.target(pod=f"pod-{number}") for number in range(16)]

    def publish(number: int) -> None:
        driver.publish(targets[number], volume_id=f"v{number}", reference=reference, exclude=f"f{number % 4}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(publish, range(16)))
    log = AccessLog(registry, repository)
    # who comes when it is there already proves with a few bytes that he may read it
    sent = [sorted(request.sent for request in log.gets(sha256(layer.content))) for layer in layers]
    assert all(counts[-1] == 300_000 and sum(counts[:-1]) <= 15 * 4096 for counts in sent), sent
    for number, target in enumerate(targets):
        assert {path.name for path in target.iterdir()} == {f"f{other}" for other in range(4) if other != number % 4}
        driver.unpublish(target, volume_id=f"v{number}")


def test_blob_of_two_names_is_fetched_and_stored_once(
    driver: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    data = os.urandom(100_000)
    reference = pusher.artifact(repository, [Layer(content=data, title=name) for name in ("a", "b/c")])
    target = driver.target()
    driver.publish(target, reference=reference)
    assert (target / "a").read_bytes() == (target / "b/c").read_bytes() == data
    assert (target / "a").stat().st_ino == (target / "b/c").stat().st_ino
    assert len(AccessLog(registry, repository).gets(sha256(data))) == 1
    driver.unpublish(target)


def test_second_version_fetches_only_what_is_new(
    driver: Driver, registry: Distribution, pusher: Pusher, repository: str
) -> None:
    old, kept, new = (Layer(content=os.urandom(50_000), title=name) for name in ("old", "kept", "new"))
    first = pusher.artifact(repository, [old, kept], tag="v1")
    second = pusher.artifact(repository, [kept, new], tag="v2")
    targets = [driver.target(pod=f"pod-{number}") for number in range(2)]
    for number, reference in enumerate((first, second)):
        driver.publish(targets[number], volume_id=f"v{number}", reference=reference)
    log = AccessLog(registry, repository)
    assert [len(log.gets(sha256(layer.content))) for layer in (old, kept, new)] == [1, 1, 1]
    assert (targets[0] / "kept").stat().st_ino == (targets[1] / "kept").stat().st_ino
    for number, target in enumerate(targets):
        driver.unpublish(target, volume_id=f"v{number}")


@pytest.mark.parametrize(
    ("policy", "asks"),
    [("Always", 1), ("IfNotPresent", 0), ("Never", 0)],
)
def test_pull_policy_decides_whether_the_registry_is_asked_again(
    driver: Driver, registry: Distribution, pusher: Pusher, repository: str, *, policy: str, asks: int
) -> None:
    reference = pusher.artifact(repository, [Layer(content=policy.encode(), title="x")])
    targets = [driver.target(pod=f"pod-{number}") for number in range(2)]
    driver.publish(targets[0], volume_id="v0", reference=reference)
    log = AccessLog(registry, repository)
    log.gets("v1")
    before = len(log.requests())
    driver.publish(targets[1], volume_id="v1", reference=reference, pullPolicy=policy)
    asked = log.requests()[before:]
    assert [request.method for request in asked] == ["HEAD"] * asks  # a registry's quota counts no HEAD
    for number, target in enumerate(targets):
        driver.unpublish(target, volume_id=f"v{number}")


def test_always_sees_a_moved_tag_and_if_not_present_does_not(driver: Driver, pusher: Pusher, repository: str) -> None:
    pusher.artifact(repository, [Layer(content=b"old", title="x")])
    seen = {}
    targets = [driver.target(pod=f"pod-{number}") for number in range(3)]
    for number, policy in enumerate(("Always", "IfNotPresent", "Always")):
        reference = f"{pusher.address}/{repository}:v1"
        driver.publish(targets[number], volume_id=f"v{number}", reference=reference, pullPolicy=policy)
        seen[number] = (targets[number] / "x").read_bytes()
        if number == 0:
            pusher.artifact(repository, [Layer(content=b"new", title="x")])
    assert seen == {0: b"old", 1: b"old", 2: b"new"}
    assert (targets[0] / "x").read_bytes() == b"old"
    for number, target in enumerate(targets):
        driver.unpublish(target, volume_id=f"v{number}")
