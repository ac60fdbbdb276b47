"""Referrers that are pushed: listed by the registry, or by us under the tag that the specification names."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.errors import AccessDeniedError, CsiOrasError, HostileContentError, PushRefusedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from tests.support.artifacts import EMPTY_TYPE, OCI_INDEX, OCI_MANIFEST, Layer, Pusher, manifest
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, header, status
from tests.support.fakes import Connect
from tests.support.referrers_registry import referrers_registry

pytest_plugins = ["tests.support.fake_fixtures"]

REPORT = "application/x-report"
ARTIFACT = manifest([Layer(content=b"a", title="a")])
SUBJECT = Digest.of(ARTIFACT)
TAG = f"sha256-{SUBJECT.encoded}"


def referrer(name: str = "report") -> tuple[bytes, Descriptor]:
    subject = Descriptor.of(ARTIFACT, OCI_MANIFEST).to_json()
    content = manifest([Layer(content=name.encode())], artifactType=REPORT, subject=subject)
    return content, replace(Descriptor.of(content, OCI_MANIFEST), artifact_type=REPORT)


def put(client: RepositoryClient, name: str = "report") -> Descriptor:
    content, entry = referrer(name)
    client.pushes().put_referrer(content, entry, SUBJECT)
    return entry


def tagged(fake: FakeRegistry) -> list[str]:
    return [entry["digest"] for entry in json.loads(fake.manifests["t/x"][TAG][0])["manifests"]]


def test_registry_that_has_seen_to_the_subject_is_asked_no_more(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/manifests/", header(OCI_Subject=str(SUBJECT)), method="PUT")
    entry = put(connect())
    assert [(request.method, request.path) for request in fake.seen("/t/x/")] == [
        ("PUT", f"/v2/t/x/manifests/{entry.digest}")
    ]


@pytest.mark.parametrize("answered", ["", "yes", str(Digest.of(b"another"))])
def test_registry_that_lists_referrers_without_saying_so_is_given_no_tag(
    fake: FakeRegistry, connect: Connect, answered: str
) -> None:
    fake.bend("/manifests/", header(OCI_Subject=answered), method="PUT")
    empty = Answer(body=b'{"schemaVersion": 2, "manifests": []}').having(Content_Type=OCI_INDEX)
    fake.bend("/referrers/", lambda _request, _answer: empty)
    put(connect())
    assert TAG not in fake.manifests["t/x"]


def test_list_under_the_tag_is_begun_where_there_is_none(fake: FakeRegistry, connect: Connect) -> None:
    entry = put(connect())
    content, media_type = fake.manifests["t/x"][TAG]
    assert (media_type, json.loads(content)["mediaType"]) == (OCI_INDEX, OCI_INDEX)
    assert tagged(fake) == [str(entry.digest)]
    (found,) = connect().referrers(SUBJECT, REPORT)
    assert (found.digest, found.size, found.artifact_type) == (entry.digest, entry.size, REPORT)


def test_list_under_the_tag_keeps_whatever_others_have_put_there(fake: FakeRegistry, connect: Connect) -> None:
    theirs: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"t")), "size": 1, "platform": None}
    before = {"schemaVersion": 2, "manifests": [{**theirs, "x": [1]}], "annotations": {"a": "b"}, "y": 5}
    fake.manifest("t/x", TAG, json.dumps(before).encode(), OCI_INDEX)
    put(connect())
    after = json.loads(fake.manifests["t/x"][TAG][0])
    assert after.pop("manifests")[0] == {**theirs, "x": [1]}
    assert after == {"schemaVersion": 2, "annotations": {"a": "b"}, "y": 5}


def test_referrer_that_is_listed_is_not_listed_again(fake: FakeRegistry, connect: Connect) -> None:
    entry = put(connect())
    put(connect())
    assert tagged(fake) == [str(entry.digest)]
    assert fake.count(f"/manifests/{TAG}", "PUT") == 1


def test_list_that_others_write_at_the_same_moment_has_both(fake: FakeRegistry, connect: Connect) -> None:
    other = str(Digest.of(b"other"))

    def overwrite(_request: Request, answer: Answer) -> Answer:
        entry = {"mediaType": OCI_MANIFEST, "digest": other, "size": 1}
        fake.manifest("t/x", TAG, json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), OCI_INDEX)
        return answer

    fake.bend(f"/manifests/{TAG}", overwrite, method="PUT", times=1)
    entry = put(connect())
    assert tagged(fake) == [other, str(entry.digest)]


def test_list_that_others_write_all_the_time_is_given_up(fake: FakeRegistry, connect: Connect) -> None:
    def forget(_request: Request, answer: Answer) -> Answer:
        del fake.manifests["t/x"][TAG]
        return answer

    fake.bend(f"/manifests/{TAG}", forget, method="PUT")
    with pytest.raises(PushRefusedError, match="by others"):
        put(connect())
    assert fake.count(f"/manifests/{TAG}", "PUT") == 5


def test_what_is_no_list_is_left_alone(fake: FakeRegistry, connect: Connect) -> None:
    fake.manifest("t/x", TAG, ARTIFACT)
    with pytest.raises(CsiOrasError, match="is no list of referrers"):
        put(connect())
    fake.manifest("t/x", TAG, b'{"schemaVersion": 2, "manifests": 5}', OCI_INDEX)
    with pytest.raises(HostileContentError):
        put(connect())
    assert fake.count(f"/manifests/{TAG}", "PUT") == 0


def test_referrer_that_is_refused_leaves_no_list(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/manifests/", status(403), method="PUT")
    with pytest.raises(AccessDeniedError):
        put(connect())
    assert fake.count("/manifests/") == 1


def test_list_is_written_again_after_a_failure(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(f"/manifests/{TAG}", status(503), times=1)
    fake.bend(f"/manifests/{TAG}", status(503), method="PUT", times=1)
    entry = put(connect())
    assert tagged(fake) == [str(entry.digest)]


# -- registries as they are


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("distribution", marks=pytest.mark.needs("registry")),
        pytest.param("go-containerregistry", marks=pytest.mark.needs("referrers registry")),
    ],
)
def real(
    request: pytest.FixtureRequest, registry: Distribution, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pusher]:
    if request.param == "distribution":
        yield Pusher(registry.address)
        return
    with referrers_registry(tmp_path_factory.mktemp("referrers") / "registry.log") as pusher:
        yield pusher


def test_referrers_are_listed_by_real_registries(real: Pusher, repository: str, transport: Transport) -> None:
    real.artifact(repository, [Layer(content=b"a", title="a")])
    for name in ("one", "two"):
        real.blob(repository, name.encode())
    client = Registries(transport).repository(Repository(registry=real.address, name=repository), None)
    entries = [put(client, name) for name in ("one", "two", "two")]
    found = client.referrers(SUBJECT)
    assert {entry.digest for entry in found} == {entry.digest for entry in entries}
    assert len(found) == 2
    assert {entry.artifact_type for entry in found} <= {REPORT, EMPTY_TYPE}  # which is what old registries say


# -- blobs of which only the digest is known


def test_blob_without_a_size_is_fetched_up_to_a_limit(fake: FakeRegistry, connect: Connect) -> None:
    digest = Digest.parse(fake.blob("t/x", b"content"))
    assert connect().unsized_blob(digest, 7) == b"content"
    with pytest.raises(CsiOrasError, match="more than the 6 bytes"):
        connect().unsized_blob(digest, 6)


def test_blob_without_a_size_is_proven(fake: FakeRegistry, connect: Connect) -> None:
    digest = Digest.parse(fake.blob("t/x", b"content"))
    fake.bend("/blobs/", lambda _request, answer: replace(answer, body=b"another"))
    with pytest.raises(CsiOrasError, match="sent bytes with digest"):
        connect().unsized_blob(digest, 100)
