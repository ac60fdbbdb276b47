"""Registries that serve no ranges, break off, or send something else."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, sha256
from tests.support.calls import refused
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import body, broken_off, header, status

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root")
_MIB = 1 << 20


@pytest.fixture(scope="module")
def ranging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A driver that fetches ranges of 1 MiB."""
    directory = tmp_path_factory.mktemp("d")
    policy = directory / "policy.yaml"
    policy.write_text("pulls: {rangeBytes: 1Mi, parallelRanges: 4}\n")
    with Driver(directory, "--config", str(policy)) as running:
        yield running


@pytest.fixture
def target(ranging: Driver, repository: str) -> Iterator[Path]:
    path = ranging.target(pod=repository.replace("/", "-"))
    yield path
    ranging.unpublish(path)
    assert not path.exists()
    assert list((ranging.state / "ingest").iterdir()) == []


@pytest.fixture
def large() -> bytes:
    return os.urandom(5 * _MIB + 1)


def test_registry_that_ignores_ranges_is_read_in_one_stream(
    ranging: Driver, fake: FakeRegistry, target: Path, large: bytes
) -> None:
    fake.serves_ranges = False
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == large


def test_range_that_breaks_off_goes_on(ranging: Driver, fake: FakeRegistry, target: Path, large: bytes) -> None:
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    fake.bend("/blobs/", broken_off(100_000), times=3)
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == large


def test_range_that_breaks_off_again_and_again_goes_on_as_long_as_bytes_come(
    ranging: Driver, fake: FakeRegistry, target: Path, large: bytes
) -> None:
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    fake.bend("/blobs/", broken_off(100_000))
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == large


def test_range_that_breaks_off_with_next_to_nothing_each_time_is_given_up(
    ranging: Driver, fake: FakeRegistry, target: Path, large: bytes
) -> None:
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    fake.bend("/blobs/", broken_off(10))
    with refused(grpc.StatusCode.UNAVAILABLE, reference, "broke off"):
        ranging.publish(target, reference=reference)
    fake.straighten()
    ranging.publish(target, reference=reference)


def test_stream_that_breaks_off_is_begun_again(ranging: Driver, fake: FakeRegistry, target: Path) -> None:
    content = os.urandom(500_000)
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    fake.bend("/blobs/", broken_off(100_000), times=2)
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == content
    assert fake.count("/blobs/", "GET") == 3


def test_registry_that_is_unwell_for_a_moment_is_asked_again(
    ranging: Driver, fake: FakeRegistry, target: Path, large: bytes
) -> None:
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    fake.bend("/manifests/", status(503), times=1)
    fake.bend("/blobs/", status(500), times=2)
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == large


@pytest.mark.parametrize("size", [1000, 5 * _MIB], ids=["small", "ranged"])
def test_wrong_bytes_are_data_loss_and_leave_nothing(
    ranging: Driver, fake: FakeRegistry, target: Path, size: int
) -> None:
    content = os.urandom(size)
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    fake.bend("/blobs/", lambda _request, answer: replace(answer, body=bytes(len(answer.body))))
    with refused(grpc.StatusCode.DATA_LOSS, reference, "layer 0 (x)", "digest"):
        ranging.publish(target, reference=reference)
    assert not (ranging.state / "blobs/sha256" / sha256(content).partition(":")[2]).exists()
    fake.straighten()
    ranging.publish(target, reference=reference)
    assert (target / "x").read_bytes() == content


@pytest.mark.parametrize("size", [1000, 5 * _MIB], ids=["small", "ranged"])
@pytest.mark.parametrize("claimed", [-1, 1], ids=["shorter", "longer"])
def test_blob_of_another_size_than_claimed_is_data_loss(
    ranging: Driver, fake: FakeRegistry, target: Path, size: int, claimed: int
) -> None:
    layer = Layer(content=os.urandom(size), title="x", claims={"size": size + claimed})
    reference = fake.artifact("r", [layer])
    with refused(grpc.StatusCode.DATA_LOSS, reference, "layer 0 (x)", "bytes"):
        ranging.publish(target, reference=reference)


def test_another_range_than_asked_for_is_refused(
    ranging: Driver, fake: FakeRegistry, target: Path, large: bytes
) -> None:
    reference = fake.artifact("r", [Layer(content=large, title="x")])
    fake.bend("/blobs/", header(Content_Range=f"bytes 1-1048576/{len(large)}"))
    with refused(grpc.StatusCode.FAILED_PRECONDITION, reference, "asked for bytes"):
        ranging.publish(target, reference=reference)


def test_blob_that_is_more_than_the_whole_is_refused(ranging: Driver, fake: FakeRegistry, target: Path) -> None:
    content = os.urandom(1000)
    reference = fake.artifact("r", [Layer(content=content, title="x")])
    fake.bend("/blobs/", body(content + b"more"))
    with refused(grpc.StatusCode.DATA_LOSS, reference):
        ranging.publish(target, reference=reference)
