"""A real cosign: what it signs we mount, in each form and with each key, and what our tests sign it verifies."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher
from tests.support.calls import refused
from tests.support.cosign import KINDS, Place, Signer, tag_of
from tests.support.referrers_registry import referrers_registry
from tests.support.signing import Artifact, Node, push
from tests.support.volume import Volume

pytestmark = [pytest.mark.needs("root", "registry"), pytest.mark.peer("cosign")]
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.signing_fixtures"]

FORMS = {
    "tag": (),
    "bundle": ("--new-bundle-format",),
    "experimental": ("--registry-referrers-mode=oci-1-1",),
}
HASHES = {"P-384": "sha384", "P-521": "sha512"}
TRUSTS_NOBODY = '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
DENIED = grpc.StatusCode.PERMISSION_DENIED


class Cosign:
    """The program, with a home of its own and without any service of sigstore."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "trusted-root.json").write_text(TRUSTS_NOBODY)
        self._environment = {
            **os.environ,
            "HOME": str(directory),
            "TUF_ROOT": str(directory / "tuf"),
            "COSIGN_PASSWORD": "",
            "COSIGN_EXPERIMENTAL": "1",
        }

    def run(self, *arguments: str) -> None:
        done = subprocess.run(
            ["cosign", *arguments],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def sign(self, signer: Signer, artifact: Artifact, *flags: str) -> None:
        (self._directory / "private.pem").write_bytes(signer.private)
        for name in ("import-cosign.key", "import-cosign.pub"):
            (self._directory / name).unlink(missing_ok=True)
        self.run("import-key-pair", "--key", "private.pem")
        name = f"{artifact.place.address}/{artifact.repository}@{artifact.digest}"
        self.run("sign", "--key", "import-cosign.key", "--tlog-upload=false", "--yes", *flags, name)

    def verify(self, signer: Signer, artifact: Artifact, *flags: str) -> None:
        (self._directory / "public.pem").write_bytes(signer.public)
        name = f"{artifact.place.address}/{artifact.repository}@{artifact.digest}"
        self.run("verify", "--key", "public.pem", "--insecure-ignore-tlog=true", *flags, name)


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    return Cosign(tmp_path)


@pytest.fixture
def registry_place(registry: Distribution, pusher: Pusher) -> Place:
    return Place(registry=pusher, address=registry.address, kind="tag")


@pytest.fixture
def artifact(registry_place: Place, repository: str) -> Artifact:
    return push(registry_place, repository)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Ed25519"])
def test_what_cosign_signs_is_mounted(
    cosign: Cosign, node: Node, artifact: Artifact, pod: Volume, *, kind: str, form: str
) -> None:
    with refused(DENIED, "is not signed"):
        pod.publish(reference=artifact.reference)
    cosign.sign(node.signers[kind], artifact, *FORMS[form])
    pod.publish(reference=artifact.reference)
    assert (pod.target / "x").read_bytes() == artifact.content


def test_signatures_of_cosign_stand_beside_each_other(
    cosign: Cosign, node: Node, registry_place: Place, repository: str, pod: Volume
) -> None:
    artifact = push(registry_place, repository, "both")
    for kind, form in (("P-256", "tag"), ("RSA", "tag"), ("P-384", "bundle"), ("P-521", "bundle")):
        cosign.sign(node.signers[kind], artifact, *FORMS[form])
    pod.publish(reference=artifact.reference)


def test_prehashed_ed25519_is_refused_by_cosign_and_by_us(
    cosign: Cosign, node: Node, artifact: Artifact, pod: Volume
) -> None:
    """Cosign 2.6 signs with Ed25519ph where it is given such a key, and verifies plain Ed25519 only."""
    signer = node.signers["Ed25519"]
    cosign.sign(signer, artifact)
    with refused(DENIED, "none of the keys"):
        pod.publish(reference=artifact.reference)
    with pytest.raises(AssertionError, match="failed to verify signature"):
        cosign.verify(signer, artifact)


@pytest.mark.needs("referrers registry")
@pytest.mark.parametrize("form", ["bundle", "experimental"])
def test_what_cosign_attaches_by_the_referrers_interface_is_mounted(
    cosign: Cosign, node: Node, repository: str, pod: Volume, tmp_path: Path, *, form: str
) -> None:
    with referrers_registry(tmp_path / "registry.log") as pusher:
        artifact = push(Place(registry=pusher, address=pusher.address, kind="referrers"), repository)
        with refused(DENIED, "is not signed"):
            pod.publish(reference=artifact.reference)
        cosign.sign(node.signer, artifact, *FORMS[form])
        assert pusher.get(f"/v2/{artifact.repository}/manifests/{tag_of(artifact.digest, '')}")[0] == 404
        pod.publish(reference=artifact.reference)
        assert (pod.target / "x").read_bytes() == artifact.content


@pytest.mark.parametrize("kind", KINDS)
def test_what_our_tests_sign_is_what_cosign_verifies(cosign: Cosign, artifact: Artifact, kind: str) -> None:
    signer = Signer.of(kind)
    artifact.sign(signer)
    cosign.verify(signer, artifact, f"--signature-digest-algorithm={HASHES.get(kind, 'sha256')}")


def test_bundle_that_our_tests_make_is_what_cosign_verifies(
    cosign: Cosign, registry_place: Place, repository: str
) -> None:
    artifact = push(replace(registry_place, kind="referrers tag"), repository)
    signer = Signer.of()
    artifact.sign(signer)
    cosign.verify(signer, artifact, "--new-bundle-format", "--trusted-root", "trusted-root.json")
