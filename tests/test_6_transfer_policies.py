"""Verification that is switched on, changed or only warns, and artifacts that are on the node already."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support.calls import refused
from tests.support.cosign import Place, Signer
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.pods import Held, wait_for
from tests.support.signing import Artifact, Node, push, rule, warnings
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.signing_fixtures"]

DENIED = grpc.StatusCode.PERMISSION_DENIED


class Switched:
    """A driver that wants nothing signed at first, and what is wanted of it later."""

    def __init__(self, directory: Path) -> None:
        self._policy = directory / "policy.yaml"
        self._policy.write_text("verification: []\n")
        self.key = directory / "cosign.pub"
        self.signer = Signer.of()
        self.key.write_bytes(self.signer.public)
        self.driver = Driver(directory, "--config", str(self._policy))

    def changes(self) -> int:
        return self.driver.log.count("the policy file has changed and is in force")

    def want(self, mode: str = "enforce") -> None:
        """Want everything signed from now on."""
        self._change(lambda: self._policy.write_text("verification:\n" + rule("**", self.key, mode=mode)))

    def replace_key(self, signer: Signer) -> None:
        """Put another key into the file."""
        self._change(lambda: self.key.write_bytes(signer.public))

    def _change(self, change: Callable[[], object]) -> None:
        before = self.changes()
        change()
        wait_for(lambda: self.changes() > before)


@pytest.fixture
def switched(short_path: Path) -> Iterator[Switched]:
    switched = Switched(short_path)
    with switched.driver:
        yield switched


@pytest.fixture
def artifact(fake: FakeRegistry, repository: str) -> Artifact:
    return push(Place(registry=fake, address=fake.address, kind="referrers"), repository)


@pytest.fixture
def first(switched: Switched) -> Iterator[Volume]:
    volume = Volume(switched.driver)
    yield volume
    volume.unpublish()


@pytest.fixture
def second(switched: Switched) -> Iterator[Volume]:
    volume = Volume(switched.driver)
    yield volume
    volume.unpublish()


def test_cached_artifact_is_not_mounted_when_a_signature_is_wanted_later(
    switched: Switched, fake: FakeRegistry, artifact: Artifact, first: Volume, second: Volume
) -> None:
    first.publish(reference=artifact.reference)
    switched.want()
    first.publish(reference=artifact.reference)  # it is mounted already, and stays
    pinned = f"{artifact.reference}@{artifact.digest}"
    for reference in (artifact.reference, pinned):
        for pull_policy in ("IfNotPresent", "Never", "Always"):
            with refused(DENIED, reference):
                second.publish(reference=reference, pullPolicy=pull_policy)
            assert second.is_gone()
    # a registry that is away changes nothing
    fake.bend("/", status(503))
    with refused(grpc.StatusCode.UNAVAILABLE, artifact.repository):
        second.publish(reference=artifact.reference)
    assert second.is_gone()


def test_cached_artifact_is_mounted_once_it_is_signed_and_then_without_the_registry(
    switched: Switched, fake: FakeRegistry, artifact: Artifact, first: Volume, second: Volume
) -> None:
    first.publish(reference=artifact.reference)
    switched.want()
    with refused(DENIED, "not known to be signed"):
        second.publish(reference=artifact.reference, pullPolicy="Never")
    artifact.sign(switched.signer)
    second.publish(reference=artifact.reference, pullPolicy="IfNotPresent")
    assert (second.target / "x").read_bytes() == artifact.content
    switched.driver.stop()
    switched.driver.start()
    before = fake.count()
    for pull_policy in ("IfNotPresent", "Never"):
        second.unpublish()
        second.publish(reference=artifact.reference, pullPolicy=pull_policy)
    assert fake.count() == before


def test_what_was_verified_by_a_key_that_is_replaced_counts_no_more(
    switched: Switched, artifact: Artifact, first: Volume, second: Volume
) -> None:
    artifact.sign(switched.signer)
    switched.want()
    first.publish(reference=artifact.reference)
    new = Signer.of("Ed25519")
    switched.replace_key(new)
    with refused(DENIED, "none of the keys"):
        second.publish(reference=artifact.reference)
    artifact.sign(new)
    second.publish(reference=artifact.reference)


def test_pull_that_began_before_is_not_joined_by_who_comes_after(
    switched: Switched, fake: FakeRegistry, artifact: Artifact, first: Volume, second: Volume
) -> None:
    held = Held()
    fake.bend("/blobs/", held)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(first.publish, reference=artifact.reference)
        held.wait()
        switched.want()
        with refused(DENIED, "is not signed"):
            second.publish(reference=artifact.reference)
        held.release()
        under_way.result(30)
    assert second.is_gone()


# -- warnings


def test_warning_lets_through_and_says_so(node: Node, fake: FakeRegistry, repository: str, pod: Volume) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository, "warned")
    before = node.checks("warn", "missing"), node.checks("warn", "unknown")
    pod.publish(reference=artifact.reference)
    assert (pod.target / "x").read_bytes() == artifact.content
    assert len(warnings(node.driver, artifact.reference, "is not signed")) == 1
    pod.unpublish()
    pod.publish(reference=artifact.reference, pullPolicy="Never")
    assert len(warnings(node.driver, artifact.reference, "not known to be signed")) == 1
    assert (node.checks("warn", "missing"), node.checks("warn", "unknown")) == (before[0] + 1, before[1] + 1)


def test_warning_is_not_given_for_what_is_signed(node: Node, fake: FakeRegistry, repository: str, pod: Volume) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository, "warned")
    artifact.sign(node.signer)
    before = node.checks("warn", "verified")
    pod.publish(reference=artifact.reference)
    assert warnings(node.driver, artifact.reference) == []
    assert node.checks("warn", "verified") == before + 1


@pytest.mark.parametrize("path", [r"\.sig$", "/referrers/"])
def test_warning_is_all_that_comes_of_a_signature_that_cannot_be_got(
    node: Node, fake: FakeRegistry, repository: str, pod: Volume, path: str
) -> None:
    fake.bend(path, status(503))
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository, "warned")
    pod.publish(reference=artifact.reference)
    assert len(warnings(node.driver, artifact.reference)) == 1


def test_label_values_of_the_metric_are_fixed(node: Node) -> None:
    named = [name for name in node.driver.metrics() if name.startswith("csi_oras_signature_checks_total")]
    for name in named:
        mode, outcome = name.partition("{")[2].rstrip("}").split(",")
        assert mode in ('mode="enforce"', 'mode="warn"')
        assert outcome.partition("=")[2].strip('"') in ("verified", "missing", "invalid", "unreachable", "unknown")


# -- the command line, which is held to the same


def test_pull_command_is_refused_and_let_through_as_a_pod_is(
    fake: FakeRegistry, repository: str, tmp_path: Path
) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository)
    signer, key, policy = Signer.of(), tmp_path / "cosign.pub", tmp_path / "policy.yaml"
    key.write_bytes(signer.public)
    policy.write_text("verification:\n" + rule("**", key))
    command = [
        sys.executable, "-m", "csi_oras", "pull", artifact.reference, "--state-dir", str(tmp_path / "state"),
        "--config", str(policy), "--to", str(tmp_path / "to"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not signed" in done.stderr
    assert not (tmp_path / "to" / "x").exists()
    artifact.sign(signer)
    subprocess.run(command, capture_output=True, check=True)
    assert (tmp_path / "to" / "x").read_bytes() == artifact.content
