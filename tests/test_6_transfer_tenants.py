"""One store for all pods, and nobody reads from it what he could not have pulled."""

import base64
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Reference
from csi_oras.store.paths import StatePaths
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, manifest, sha256
from tests.support.calls import publish_request, refused
from tests.support.driver import Driver
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request
from tests.support.planted import planted
from tests.support.private_registry import SECRET, private_registry
from tests.support.stores import content_store
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.shared"]
_WRONG = {"username": "alice", "password": "wrong"}
_BOB = {"username": "bob", "password": "of another registry"}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Distribution, Pusher]]:
    with private_registry(tmp_path_factory.mktemp("private")) as running:
        yield running


def docker_config(address: str, username: str, password: str) -> dict[str, str]:
    auth = base64.b64encode(f"{username}:{planted(password)}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {address: {"auth": auth}}})}


@pytest.mark.parametrize("secrets", [{}, _WRONG], ids=["without", "wrong"])
@pytest.mark.parametrize(
    ("policy", "code"),
    [
        pytest.param("Always", grpc.StatusCode.UNAUTHENTICATED, id="Always"),
        pytest.param("IfNotPresent", grpc.StatusCode.UNAUTHENTICATED, id="IfNotPresent"),
        pytest.param("Never", grpc.StatusCode.NOT_FOUND, id="Never"),
    ],
)
def test_cached_private_artifact_is_refused_without_its_credential(
    private: tuple[Distribution, Pusher],
    repository: str,
    volume: Volume,
    other: Volume,
    *,
    secrets: dict[str, str],
    policy: str,
    code: grpc.StatusCode,
) -> None:
    layers = [Layer(content=os.urandom(100), title="x")]
    reference = private[1].artifact(repository, layers)
    volume.publish(reference=reference, secrets=SECRET)
    with refused(code, reference):
        other.publish(reference=reference, secrets=secrets, pullPolicy=policy)
    assert other.is_gone()
    # also by digest, which a pod's author may have seen somewhere
    pinned = f"{reference.rpartition(':')[0]}@{sha256(manifest(layers))}"
    with refused(code, pinned):
        other.publish(reference=pinned, secrets=secrets, pullPolicy=policy)
    assert other.is_gone()


@pytest.mark.parametrize("secrets", [{}, _WRONG, _BOB], ids=["without", "wrong", "another's"])
def test_never_tells_nobody_what_others_have_on_the_node(
    private: tuple[Distribution, Pusher], repository: str, volume: Volume, other: Volume, secrets: dict[str, str]
) -> None:
    layers = [Layer(content=os.urandom(100), title="x")]
    reference = private[1].artifact(repository, layers)
    name, cached = reference.rpartition(":")[0], sha256(manifest(layers))
    absent = f"sha256:{'0' * 64}"

    def answer(reference: str) -> str:
        with refused(grpc.StatusCode.NOT_FOUND, "set pullPolicy: IfNotPresent") as refusal:
            other.publish(reference=reference, secrets=secrets, pullPolicy="Never")
        assert other.is_gone()
        return refusal.message.replace(reference, "<reference>")

    volume.publish(reference=reference, secrets=SECRET)
    asked = [f"{where}@{digest}" for where in (name, f"{name}/not/there") for digest in (cached, absent)]
    assert len({answer(reference) for reference in (*asked, reference, f"{name}:absent")}) == 1


def test_cached_private_artifact_is_shown_again_to_its_credential_without_the_registry(
    private: tuple[Distribution, Pusher], repository: str, volume: Volume, other: Volume
) -> None:
    reference = private[1].artifact(repository, [Layer(content=b"private", title="x")])
    volume.publish(reference=reference, secrets=SECRET)
    log = AccessLog(private[0], repository)
    log.gets("v1")
    before = len(log.requests())
    for policy in ("IfNotPresent", "Never"):
        # the same user and password in the other shape of secret is the same credential
        secrets = docker_config(private[0].address, "alice", "correct horse")
        other.publish(reference=reference, secrets=secrets, pullPolicy=policy)
        assert (other.target / "x").read_bytes() == b"private"
        other.unpublish()
    assert len(log.requests()) == before


def test_credential_of_a_docker_config_goes_to_its_registry_only(fake: FakeRegistry, volume: Volume) -> None:
    reference = fake.artifact("open/model", [Layer(content=b"open", title="x")])
    secrets = docker_config("elsewhere.example", "alice", "correct horse")
    volume.publish(reference=reference, secrets=secrets)
    assert fake.credentials_seen() == []


def test_anonymous_success_opens_to_all(fake: FakeRegistry, volume: Volume, other: Volume) -> None:
    reference = fake.artifact("open/model", [Layer(content=b"open", title="x")])
    volume.publish(reference=reference)
    before = fake.count()
    other.publish(reference=reference, pullPolicy="Never", secrets=_BOB)
    assert (other.target / "x").read_bytes() == b"open"
    assert fake.count() == before


def test_credential_that_is_taken_away_no_longer_opens_with_always(
    fake: FakeRegistry, volume: Volume, other: Volume
) -> None:
    fake.require_basic("alice", "correct horse")
    reference = fake.artifact("team/model", [Layer(content=b"private", title="x")])
    volume.publish(reference=reference, secrets=SECRET)
    fake.require_basic("alice", "changed")
    with refused(grpc.StatusCode.UNAUTHENTICATED, reference):
        other.publish(reference=reference, secrets=SECRET, pullPolicy="Always")
    assert other.is_gone()


class Thief:
    """A registry of a tenant that names another's blob in its own manifest without having its bytes."""

    def __init__(self, fake: FakeRegistry, secret: bytes) -> None:
        self.fake = fake
        self.layer = Layer(content=secret, title="stolen")
        fake.blob("thief/copy", b"{}")
        fake.manifest("thief/copy", "v1", manifest([self.layer]))
        self.reference = f"{fake.address}/thief/copy:v1"

    def claims_to_have_it(self, path: str = "/blobs/") -> None:
        """Say yes to every HEAD, and send zeros for every GET."""

        def lie(request: Request, _answer: Answer) -> Answer:
            size = len(self.layer.content)
            if request.method == "HEAD":
                return Answer(status=200).having(Content_Length=str(size))
            if "Range" not in request.headers:
                return Answer(body=bytes(size))
            start, _, end = request.headers["Range"].removeprefix("bytes=").partition("-")
            part = Answer(status=206, body=bytes(int(end) - int(start) + 1))
            return part.having(Content_Range=f"bytes {start}-{end}/{size}")

        self.fake.bend(f"{path}{sha256(self.layer.content)}", lie)


@pytest.fixture
def secret_blob(private: tuple[Distribution, Pusher], repository: str, volume: Volume) -> bytes:
    """A blob of somebody else's private artifact, local on the node."""
    content = os.urandom(50_000)
    reference = private[1].artifact(repository, [Layer(content=content, title="x")])
    volume.publish(reference=reference, secrets=SECRET)
    return content


def test_local_blob_is_not_shown_through_a_repository_that_lacks_it(
    fake: FakeRegistry, secret_blob: bytes, other: Volume
) -> None:
    thief = Thief(fake, secret_blob)
    with refused(grpc.StatusCode.NOT_FOUND, thief.reference, "layer 0 (stolen)"):
        other.publish(reference=thief.reference)
    assert other.is_gone()
    with refused(grpc.StatusCode.NOT_FOUND):
        other.publish(reference=thief.reference, pullPolicy="Never")


def test_local_blob_is_not_shown_through_a_registry_that_fakes_it(
    fake: FakeRegistry, secret_blob: bytes, other: Volume
) -> None:
    thief = Thief(fake, secret_blob)
    thief.claims_to_have_it()
    with refused(grpc.StatusCode.DATA_LOSS, thief.reference, "layer 0 (stolen)"):
        other.publish(reference=thief.reference)
    assert other.is_gone()
    assert fake.count("/blobs/", "GET") >= 1  # a real read was asked for


def test_local_blob_is_shared_through_a_repository_that_has_it(
    fake: FakeRegistry, secret_blob: bytes, volume: Volume, other: Volume
) -> None:
    reference = fake.artifact("honest/copy", [Layer(content=secret_blob, title="copy")])
    other.publish(reference=reference)
    assert (other.target / "copy").stat().st_ino == (volume.target / "x").stat().st_ino
    ranges = [request.headers["Range"] for request in fake.seen(sha256(secret_blob), "GET")]
    assert ranges == [None]  # every byte, of a registry that has not served it before
    again = fake.artifact("honest/again", [Layer(content=secret_blob, title="again")])
    other.unpublish()
    other.publish(reference=again)
    ranges = [request.headers["Range"] for request in fake.seen(sha256(secret_blob), "GET")][1:]
    assert len(ranges) == 1  # some bytes in the middle, for by now this registry is known to have it
    start, _, end = ranges[0].removeprefix("bytes=").partition("-")
    assert int(end) - int(start) + 1 == 4096


def test_local_blob_is_not_shown_to_who_knows_nearly_all_of_it(
    fake: FakeRegistry, volume: Volume, other: Volume
) -> None:
    """Whoever asks at random places meets what everybody knows: only the whole blob is a proof."""
    known, secret = bytes(1 << 20), os.urandom(32)
    with FakeRegistry() as owner:
        volume.unpublish()
        volume.publish(reference=owner.artifact("team/model", [Layer(content=secret + known, title="x")]))
    guess = bytes(32) + known
    reference = fake.artifact("thief/model", [Layer(content=secret + known, title="stolen")])
    fake.bend(sha256(secret + known), lambda _request, answer: replace(answer, body=guess))
    for _ in range(5):
        with refused(grpc.StatusCode.DATA_LOSS):
            other.publish(reference=reference)
        assert other.is_gone()


def test_blob_that_another_fetches_just_now_is_no_way_in(
    fake: FakeRegistry, shared_driver: Driver, volume: Volume, other: Volume
) -> None:
    """The thief asks while the owner's pull runs, and has to read the blob himself."""
    content, under_way, go_on = os.urandom(10_000), threading.Event(), threading.Event()
    with FakeRegistry() as owner:
        reference = owner.artifact("team/model", [Layer(content=content, title="x")])

        def hold(_request: Request, answer: Answer) -> Answer:
            under_way.set()
            assert go_on.wait(30)
            return answer

        owner.bend(sha256(content), hold)
        thief = Thief(fake, content)
        calls = shared_driver.node.NodePublishVolume
        owners = calls.future(publish_request(volume.target, volume_id=volume.volume_id, reference=reference))
        assert under_way.wait(30)
        thiefs = calls.future(publish_request(other.target, volume_id=other.volume_id, reference=thief.reference))
        wait_for_manifest(fake)
        go_on.set()
        owners.result(30)
        with refused(grpc.StatusCode.NOT_FOUND):
            thiefs.result(30)
    assert (volume.target / "x").read_bytes() == content
    assert other.is_gone()


def wait_for_manifest(fake: FakeRegistry) -> None:
    waited = threading.Event()
    for _ in range(500):
        if fake.count("/manifests/", "GET"):
            return
        waited.wait(0.01)
    raise AssertionError("the manifest was never asked for")


def test_liar_that_is_asked_first_spoils_nobody_elses_pull(
    fake: FakeRegistry, shared_driver: Driver, volume: Volume, other: Volume
) -> None:
    """A registry that sends wrong bytes under a digest fails its own volumes only."""
    content, under_way, go_on = os.urandom(10_000), threading.Event(), threading.Event()
    with FakeRegistry() as liar:
        lie = liar.artifact("liar/model", [Layer(content=content, title="x")])

        def hold(_request: Request, answer: Answer) -> Answer:
            under_way.set()
            assert go_on.wait(30)
            return replace(answer, body=bytes(len(content)))

        liar.bend(sha256(content), hold)
        truth = fake.artifact("honest/model", [Layer(content=content, title="x")])
        calls = shared_driver.node.NodePublishVolume
        liars = calls.future(publish_request(other.target, volume_id=other.volume_id, reference=lie))
        assert under_way.wait(30)
        honest = calls.future(publish_request(volume.target, volume_id=volume.volume_id, reference=truth))
        wait_for_manifest(fake)
        go_on.set()
        with refused(grpc.StatusCode.DATA_LOSS, lie):
            liars.result(30)
        honest.result(30)
    assert (volume.target / "x").read_bytes() == content
    assert other.is_gone()


def test_bytes_that_a_killed_pull_left_are_no_way_in(
    short_path: Path, fake: FakeRegistry, pusher: Pusher, repository: str
) -> None:
    """A complete ingest without its commit is another's download, perhaps with another credential.

    Whoever goes on from it proves his own access.
    """
    content = os.urandom(20 << 20)
    driver = Driver(short_path)
    blob = Descriptor.of(content, "application/octet-stream")
    thief = Thief(fake, content)
    source = str(Reference.parse(thief.reference).repository)
    ingest = content_store(StatePaths.create(driver.state)).ingest(blob, source)
    assert ingest is not None
    ingest.write(memoryview(content), 0)
    ingest.keep(0, len(content))
    ingest.close()
    with driver:
        target = driver.target()
        with refused(grpc.StatusCode.NOT_FOUND, thief.reference, "layer 0 (stolen)"):
            driver.publish(target, reference=thief.reference)
        assert not target.exists()
        assert list((driver.state / "ingest").iterdir()) == []  # he did go on from it
        honest = pusher.artifact(repository, [thief.layer])
        driver.publish(target, reference=honest)
        assert (target / "stolen").read_bytes() == content
        driver.unpublish(target)
