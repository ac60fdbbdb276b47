"""Signatures through the real driver: what node policy wants signed is mounted with a good signature only.

Each case is tried in all three places that a signature may be in: cosign's tag and the referrers' tag of a CNCF
registry, and the referrers' interface of the programmable one. The numbers are rows of a list of known attacks.
"""

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from tests.support.artifacts import OCI_INDEX, OCI_MANIFEST, Layer, manifest, sha256
from tests.support.calls import refused
from tests.support.cosign import (
    COSIGN_ARTIFACT,
    KINDS,
    Place,
    Signer,
    bundle,
    bundle_layer,
    envelope,
    index,
    list_by_interface,
    payload,
    put_referrer,
    simple_layer,
    statement,
    text,
)
from tests.support.fake_registry import FakeRegistry
from tests.support.signing import Artifact, Node, push
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.signing_fixtures"]

DENIED = grpc.StatusCode.PERMISSION_DENIED


# -- what is mounted


@pytest.mark.parametrize("kind", KINDS)
def test_signed_artifact_is_mounted(node: Node, unsigned: Artifact, pod: Volume, kind: str) -> None:
    unsigned.sign(node.signers[kind])
    before = node.checks("enforce", "verified")
    pod.publish(reference=unsigned.reference)
    assert (pod.target / "x").read_bytes() == unsigned.content
    assert node.checks("enforce", "verified") == before + 1


def test_one_good_signature_among_false_ones_is_enough(node: Node, unsigned: Artifact, pod: Volume) -> None:
    other = sha256(b"another artifact")
    good = unsigned.place.layer(node.signer, unsigned.digest)
    unsigned.attach(
        unsigned.place.layer(Signer.of(), unsigned.digest),
        unsigned.place.layer(node.signer, other),
        Layer(content=b"noise", media_type=good.media_type),
        good,
    )
    pod.publish(reference=unsigned.reference)


def test_repository_that_no_rule_names_needs_no_signature(place: Place, repository: str, pod: Volume) -> None:
    pod.publish(reference=push(place, repository, "free").reference)


def test_every_rule_that_matches_must_be_met(node: Node, place: Place, repository: str, pod: Volume) -> None:
    artifact = push(place, repository, "both")
    one, other = (place.layer(node.signers[kind], artifact.digest) for kind in ("P-256", "RSA"))
    artifact.attach(one)
    with refused(DENIED, artifact.reference):
        pod.publish(reference=artifact.reference)
    artifact.attach(*([one, other] if place.kind == "tag" else [other]))
    pod.publish(reference=artifact.reference)


def test_experimental_referrer_of_cosign_is_good(node: Node, fake: FakeRegistry, repository: str, pod: Volume) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository)
    layer = simple_layer(node.signer, payload(artifact.digest))
    entry = put_referrer(fake, artifact.repository, artifact.digest, [layer], COSIGN_ARTIFACT)
    list_by_interface(fake, artifact.repository, artifact.digest, [entry])
    pod.publish(reference=artifact.reference)


def test_registry_that_lists_no_artifact_type_is_understood(
    node: Node, fake: FakeRegistry, repository: str, pod: Volume
) -> None:
    """As go-containerregistry's own registry lists, which takes the config's type."""
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository)
    layer = bundle_layer(bundle(node.signer, statement(artifact.digest)))
    entry = put_referrer(fake, artifact.repository, artifact.digest, [layer])
    entry["artifactType"] = "application/vnd.oci.empty.v1+json"
    list_by_interface(fake, artifact.repository, artifact.digest, [entry])
    pod.publish(reference=artifact.reference)


# -- indexes: a signature on the root, or on the manifest for this platform


def push_index(place: Place, repository: str) -> tuple[Artifact, str, str]:
    """An index of this machine's platform and of another; return with it the digests of both manifests."""
    name = f"enforced/{repository}"
    entries: list[dict[str, Any]] = []
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    ours = Layer(content=os.urandom(100), title="x")
    for layer, arch in ((ours, architecture), (Layer(content=b"theirs", title="x"), "s390x")):
        for content in (b"{}", layer.content):
            place.registry.blob(name, content)
        content = manifest([layer])
        digest = place.registry.manifest(name, sha256(content), content)
        platform = {"os": "linux", "architecture": arch}
        entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": len(content), "platform": platform})
    root = place.registry.manifest(name, "v1", index(entries), OCI_INDEX)
    artifact = Artifact(place=place, repository=name, content=ours.content, digest=root)
    return artifact, entries[0]["digest"], entries[1]["digest"]


@pytest.mark.parametrize("which", ["root", "manifest"])
def test_signature_on_the_root_or_on_the_manifest_is_good(
    node: Node, place: Place, repository: str, pod: Volume, which: str
) -> None:
    artifact, ours, _ = push_index(place, repository)
    place.sign(artifact.repository, ours if which == "manifest" else artifact.digest, node.signer)
    pod.publish(reference=artifact.reference)
    assert (pod.target / "x").read_bytes() == artifact.content


def test_signature_on_the_manifest_of_another_platform_is_not(
    node: Node, place: Place, repository: str, pod: Volume
) -> None:
    artifact, _, theirs = push_index(place, repository)
    place.sign(artifact.repository, theirs, node.signer)
    with refused(DENIED, "is not signed"):
        pod.publish(reference=artifact.reference)


# -- what is refused


Forge = Callable[[Signer, Artifact], Layer]
"""Makes a false signature of an artifact, in the form of its place."""


def claiming(simple: Callable[[str], bytes], in_bundle: Callable[[str], bytes]) -> Forge:
    """A good signature over something that says another thing."""

    def forge(signer: Signer, artifact: Artifact) -> Layer:
        if artifact.place.signs_bundles:
            return bundle_layer(bundle(signer, in_bundle(artifact.digest)))
        return simple_layer(signer, simple(artifact.digest))

    return forge


def spelled(respell: Callable[[str], str]) -> Forge:
    """A good signature in another spelling."""

    def forge(signer: Signer, artifact: Artifact) -> Layer:
        if not artifact.place.signs_bundles:
            content = payload(artifact.digest)
            return simple_layer(signer, content, respell(text(signer.sign(content))))
        dsse = envelope(signer, statement(artifact.digest))
        dsse["signatures"][0]["sig"] = respell(dsse["signatures"][0]["sig"])
        return bundle_layer(bundle(signer, b"", dsse=dsse))

    return forge


def by_a_stranger(signer: Signer, artifact: Artifact) -> Layer:
    """By a key that policy does not name, which comes along with all that could speak for it."""
    stranger = Signer.of()
    if artifact.place.signs_bundles:
        material = {"publicKey": {"hint": signer.hint}, "certificate": {"rawBytes": text(stranger.public)}}
        return bundle_layer(bundle(stranger, statement(artifact.digest), verificationMaterial=material))
    layer = simple_layer(stranger, payload(artifact.digest))
    certified = {**layer.annotations, "dev.sigstore.cosign/certificate": stranger.public.decode()}
    return replace(layer, annotations=certified)


def of_another_type(signer: Signer, artifact: Artifact) -> Layer:
    return replace(artifact.place.layer(signer, artifact.digest), media_type="application/json")


def without_signatures(signer: Signer, artifact: Artifact) -> Layer:
    if artifact.place.signs_bundles:
        return bundle_layer(bundle(signer, b"", dsse=envelope(signer, statement(artifact.digest), signatures=[])))
    return replace(simple_layer(signer, payload(artifact.digest)), annotations={})


OTHER = sha256(b"another artifact")
FALSE: dict[str, Forge] = {
    "E1 another digest": claiming(lambda _: payload(OTHER), lambda _: statement(OTHER)),
    "E2 another type": claiming(
        lambda digest: payload(digest, type="atomic container signature"),
        lambda digest: statement(digest, predicateType="https://slsa.dev/provenance/v1"),
    ),
    "E4 no JSON": claiming(lambda _: b"no JSON", lambda _: b"no JSON"),
    "E4 no object": claiming(lambda _: b"[]", lambda _: b"null"),
    "E4 another media type": of_another_type,
    "E4 no signatures": without_signatures,
    "E8 newline": spelled(lambda given: f"{given}\n"),
    "E8 padding": spelled(lambda given: f"{given}="),
    "E8 byte too many": spelled(lambda given: text(base64.b64decode(given) + b"\0")),
    "E10 another key, with a certificate": by_a_stranger,
}


@pytest.mark.parametrize("forge", FALSE.values(), ids=FALSE.keys())
@pytest.mark.row("E1", "E2", "E4", "E8", "E10")
def test_false_signature_is_refused(node: Node, unsigned: Artifact, pod: Volume, forge: Forge) -> None:
    unsigned.attach(forge(node.signer, unsigned))
    for pull_policy in ("Always", "IfNotPresent"):
        with refused(DENIED, unsigned.reference, "verification"):
            pod.publish(reference=unsigned.reference, pullPolicy=pull_policy)
        assert pod.is_gone()


@pytest.mark.row("E3")
def test_artifact_without_a_signature_is_refused(node: Node, unsigned: Artifact, pod: Volume) -> None:  # E3
    before = node.checks("enforce", "missing")
    with refused(DENIED, unsigned.reference, "is not signed, and node policy wants it signed", "sign it with cosign"):
        pod.publish(reference=unsigned.reference)
    assert pod.is_gone()
    assert node.checks("enforce", "missing") == before + 1
    unsigned.sign(node.signer)
    pod.publish(reference=unsigned.reference)


def test_nothing_but_manifests_and_signatures_is_fetched_of_what_is_refused(
    fake: FakeRegistry, repository: str, pod: Volume
) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="referrers"), repository)
    with refused(DENIED):
        pod.publish(reference=artifact.reference)
    assert fake.count("/blobs/") == 0
