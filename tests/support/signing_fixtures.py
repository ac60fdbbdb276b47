"""Fixtures for tests of signatures; name this module in `pytest_plugins`, beside tests.support.fake_fixtures."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher
from tests.support.cosign import KINDS, Place, Signer
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.signing import Artifact, Node, push, rule
from tests.support.volume import Volume

PLACES = ("tag", "referrers tag", "referrers")


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The node; each test has a repository of its own."""
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    signers = {kind: Signer.of(kind) for kind in KINDS}
    keys = {kind: directory / f"{kind}.pub" for kind in KINDS}
    for kind, path in keys.items():
        path.write_bytes(signers[kind].public)
    policy = directory / "policy.yaml"
    policy.write_text(
        "verification:\n"
        + rule("*/enforced/**", *keys.values())
        + rule("*/warned/**", keys["P-256"], mode="warn")
        + rule("*/both/**", keys["P-256"])
        + rule("*/both/**", keys["RSA"])
    )
    with Driver(directory, "--config", str(policy)) as driver:
        yield Node(driver=driver, signers=signers)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def pod(node: Node) -> Iterator[Volume]:
    """A volume of a pod of the node, taken away at the end."""
    volume = Volume(node.driver)
    yield volume
    volume.unpublish()
    assert volume.is_gone()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, registry: Distribution, pusher: Pusher, fake: FakeRegistry) -> Place:
    """Each place that a signature may be in."""
    if request.param == "referrers":
        return Place(registry=fake, address=fake.address, kind=request.param)
    return Place(registry=pusher, address=registry.address, kind=request.param)


@pytest.fixture
def unsigned(place: Place, repository: str) -> Artifact:
    """An artifact that the node wants signed."""
    return push(place, repository)
