"""Signatures that are found through a real registry's referrers API, and nowhere else."""

import json
from collections.abc import Iterator

import grpc
import pytest

from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from tests.support.artifacts import Pusher, sha256
from tests.support.calls import refused
from tests.support.cosign import Place, Signer, bundle, bundle_layer, put_referrer, statement, tag_of
from tests.support.referrers_registry import referrers_registry
from tests.support.signing import Artifact, Node, push
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "referrers registry")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.signing_fixtures"]
DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def pusher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pusher]:
    with referrers_registry(tmp_path_factory.mktemp("referrers") / "registry.log") as running:
        yield running


@pytest.fixture
def artifact(pusher: Pusher, repository: str) -> Artifact:
    return push(Place(registry=pusher, address=pusher.address, kind="referrers"), repository)


def attach(pusher: Pusher, artifact: Artifact, signer: Signer, about: str = "") -> None:
    """Push a bundle that refers to the artifact; the registry itself lists it."""
    layer = bundle_layer(bundle(signer, statement(about or artifact.digest)))
    put_referrer(pusher, artifact.repository, artifact.digest, [layer])


def test_signature_that_the_registry_lists_is_good(node: Node, pusher: Pusher, artifact: Artifact, pod: Volume) -> None:
    with refused(DENIED, artifact.reference, "is not signed"):
        pod.publish(reference=artifact.reference)
    attach(pusher, artifact, Signer.of())
    attach(pusher, artifact, node.signer, about=sha256(b"another artifact"))
    with refused(DENIED, artifact.reference, "verification"):
        pod.publish(reference=artifact.reference)
    before = node.checks("enforce", "verified")
    attach(pusher, artifact, node.signer)
    pod.publish(reference=artifact.reference)
    assert (pod.target / "x").read_bytes() == artifact.content
    assert node.checks("enforce", "verified") == before + 1


def test_list_of_the_registry_is_read_from_its_interface(node: Node, pusher: Pusher, artifact: Artifact) -> None:
    attach(pusher, artifact, node.signer)
    _, content = pusher.get(f"/v2/{artifact.repository}/referrers/{artifact.digest}")
    (listed,) = json.loads(content)["manifests"]
    transport = Transport()
    client = Registries(transport).repository(Reference.parse(artifact.reference).repository, None)
    found = client.referrers(Digest.parse(artifact.digest))
    transport.close()
    assert [str(entry.digest) for entry in found] == [listed["digest"]]
    # there is no list under a tag that it could have come from
    assert pusher.get(f"/v2/{artifact.repository}/manifests/{tag_of(artifact.digest, '')}")[0] == 404
