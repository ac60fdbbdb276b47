"""Verification and registries that fail, flood or change what they say, and where the digest that was verified goes."""

import os
from dataclasses import replace
from typing import Any

import grpc
import pytest

from csi_oras.transfer.verify import MOST_DOCUMENTS
from tests.support.artifacts import OCI_INDEX, Layer, manifest, sha256
from tests.support.calls import refused
from tests.support.cosign import Place, Signer, bundle_layer, index, list_by_interface, put_referrer, put_tagged, tag_of
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Bend, FakeServer, Request, body, broken_off, redirect, status
from tests.support.signing import Artifact, Node, push
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.signing_fixtures"]

DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
def at_fake(fake: FakeRegistry) -> Place:
    """A registry with the referrers' interface."""
    return Place(registry=fake, address=fake.address, kind="referrers")


@pytest.fixture
def artifact(at_fake: Place, repository: str) -> Artifact:
    return push(at_fake, repository)


def false_entries(fake: FakeRegistry, artifact: Artifact, count: int) -> list[dict[str, Any]]:
    """Referrers of the right type whose signatures are noise."""
    layers = [bundle_layer(b"noise %d" % number) for number in range(count)]
    return [put_referrer(fake, artifact.repository, artifact.digest, [layer]) for layer in layers]


# -- registries that fail


@pytest.mark.parametrize("kind", ["tag", "referrers"])
@pytest.mark.parametrize("code", [401, 403, 503])
@pytest.mark.row("E3")
def test_signature_that_cannot_be_got_is_refused(
    node: Node, fake: FakeRegistry, at_fake: Place, repository: str, pod: Volume, *, kind: str, code: int
) -> None:
    fake.bend(r"\.sig$" if kind == "tag" else "/referrers/", status(code))
    artifact = push(replace(at_fake, kind=kind), repository)
    artifact.sign(node.signer)
    before = node.checks("enforce", "unreachable")
    with refused(DENIED, artifact.reference, "cannot be got"):
        pod.publish(reference=artifact.reference)
    assert pod.is_gone()
    assert node.checks("enforce", "unreachable") == before + 1


def test_signature_in_one_place_is_good_though_the_other_cannot_be_reached(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    fake.bend(r"\.sig$", status(503))
    artifact.sign(node.signer)
    pod.publish(reference=artifact.reference)


@pytest.mark.parametrize(
    ("path", "bend"),
    [
        pytest.param("/blobs/", status(404), id="bundle that is not there"),
        pytest.param("/blobs/", body(b"{}"), id="bundle of other bytes"),
        pytest.param("/blobs/", broken_off(10), id="bundle that breaks off"),
        pytest.param("/manifests/sha256:", status(404), id="manifest that is not there"),
        pytest.param("/manifests/sha256:", body(b"{}"), id="manifest of other bytes"),
        pytest.param("/referrers/", status(200, b"<html>", Content_Type=OCI_INDEX), id="list that is none"),
        pytest.param("/referrers/", status(200, b" " * (5 << 20), Content_Type=OCI_INDEX), id="list of 5 MiB"),
        pytest.param("/referrers/", status(404), id="list that is denied"),
    ],
)
def test_good_signature_is_refused_where_the_way_to_it_is_broken(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume, *, path: str, bend: Bend
) -> None:
    fake.bend(path, bend)
    artifact.sign(node.signer)
    with refused(DENIED, artifact.reference):
        pod.publish(reference=artifact.reference)
    assert pod.is_gone()


def test_list_that_goes_on_elsewhere_is_not_followed(
    fake: FakeRegistry, evil: FakeServer, artifact: Artifact, pod: Volume
) -> None:
    page = Answer(body=index(false_entries(fake, artifact, 1))).having(Content_Type=OCI_INDEX)
    fake.bend("/referrers/", lambda _request, _answer: page.having(Link=f'<{evil.url("/next")}>; rel="next"'))
    with refused(DENIED, "another host"):
        pod.publish(reference=artifact.reference)
    assert evil.count() == 0


def test_signature_that_is_redirected_to_a_store_of_blobs_is_good(
    node: Node, fake: FakeRegistry, evil: FakeServer, artifact: Artifact, pod: Volume
) -> None:
    artifact.sign(node.signer)
    (digest, content), *_ = [
        (digest, content) for digest, content in fake.blobs[artifact.repository].items() if b"dsseEnvelope" in content
    ]
    fake.bend(digest, redirect(evil.url("/blob")))
    evil.bend("/blob", lambda _request, _answer: Answer(body=content))
    pod.publish(reference=artifact.reference)


# -- floods, which are D23


@pytest.mark.row("D23")
def test_search_ends_though_the_false_signatures_do_not(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    entries = false_entries(fake, artifact, 300)
    list_by_interface(fake, artifact.repository, artifact.digest, entries)
    good = artifact.place.layer(node.signer, artifact.digest)
    entries.append(put_referrer(fake, artifact.repository, artifact.digest, [good]))
    with refused(DENIED, "was given up"):
        pod.publish(reference=artifact.reference)
    assert fake.count() <= MOST_DOCUMENTS + 3


def test_good_signature_after_a_few_false_ones_is_found(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    entries = false_entries(fake, artifact, 20)
    list_by_interface(fake, artifact.repository, artifact.digest, entries)
    good = artifact.place.layer(node.signer, artifact.digest)
    entries.append(put_referrer(fake, artifact.repository, artifact.digest, [good]))
    pod.publish(reference=artifact.reference)


def test_statements_of_other_kinds_take_no_place_in_the_search(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    entries = false_entries(fake, artifact, 300)
    for number, entry in enumerate(entries):  # provenance says what it is, bills of materials have their own type
        if number % 2:
            entry["annotations"] = {"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}
        else:
            entry["artifactType"] = "application/spdx+json"
    list_by_interface(fake, artifact.repository, artifact.digest, entries)
    good = artifact.place.layer(node.signer, artifact.digest)
    entries.append(put_referrer(fake, artifact.repository, artifact.digest, [good]))
    pod.publish(reference=artifact.reference)
    assert fake.count("/manifests/sha256:") == 1


@pytest.mark.row("D23")
def test_list_of_a_hundred_thousand_is_refused(fake: FakeRegistry, artifact: Artifact, pod: Volume) -> None:
    entry = false_entries(fake, artifact, 1)[0]
    list_by_interface(fake, artifact.repository, artifact.digest, [entry] * 100_000)
    with refused(DENIED, artifact.reference):
        pod.publish(reference=artifact.reference)
    assert fake.count("/manifests/sha256:") == 0


@pytest.mark.row("D23")
def test_signature_of_many_bytes_is_not_fetched(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    large = replace(artifact.place.layer(node.signer, artifact.digest), claims={"size": 100 << 20})
    artifact.attach(large)
    put_tagged(fake, artifact.repository, artifact.digest, [replace(large, content=b"x")])
    with refused(DENIED, "has 104857600 bytes"):
        pod.publish(reference=artifact.reference)
    assert fake.count("/blobs/") == 0


def test_signature_with_thousands_of_layers_is_refused(fake: FakeRegistry, artifact: Artifact, pod: Volume) -> None:
    content = manifest([artifact.place.layer(Signer.of(), artifact.digest)] * 2000)
    fake.manifest(artifact.repository, tag_of(artifact.digest), content)
    with refused(DENIED):
        pod.publish(reference=artifact.reference)
    assert fake.count("/blobs/") == 0


# -- the digest that was verified is the digest that is mounted (B22, B23, E9)


def test_tag_that_moves_after_the_verification_moves_nothing(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    artifact.sign(node.signer)
    changed = manifest([Layer(content=b"changed", title="x")])
    fake.blob(artifact.repository, b"changed")

    def move(_request: Request, answer: Answer) -> Answer:
        fake.manifest(artifact.repository, "v1", changed)
        return answer

    fake.bend("/manifests/v1$", move, times=1)
    pod.publish(reference=artifact.reference)
    assert (pod.target / "x").read_bytes() == artifact.content
    assert fake.count("/manifests/v1$") == 1


def test_registry_that_says_another_digest_is_not_believed(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    artifact.sign(node.signer)
    content = manifest([Layer(content=b"unsigned", title="x")])
    fake.blob(artifact.repository, b"unsigned")
    fake.manifest(artifact.repository, "v2", content)
    header = {"Docker_Content_Digest": artifact.digest}
    fake.bend("/manifests/v2$", lambda _request, answer: answer.having(**header))
    with refused(DENIED, "is not signed"):
        pod.publish(reference=artifact.reference.replace(":v1", ":v2"))


@pytest.mark.row("E9")
def test_older_artifact_with_its_signature_goes_by_the_tag_and_not_by_a_digest(
    node: Node, fake: FakeRegistry, artifact: Artifact, pod: Volume
) -> None:
    """A signature says nothing of the time: whoever wants one version only pins its digest."""
    artifact.sign(node.signer)
    newer = fake.manifest(artifact.repository, "v1", manifest([Layer(content=os.urandom(10), title="x")]))
    fake.manifest(artifact.repository, "v1", fake.manifests[artifact.repository][artifact.digest][0])
    pinned = f"{artifact.reference}@{newer}"
    with refused(DENIED, pinned):
        pod.publish(reference=pinned)
    pod.publish(reference=artifact.reference)
    assert sha256((pod.target / "x").read_bytes()) == sha256(artifact.content)
