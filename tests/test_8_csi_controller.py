"""The controller service: stateless, never pulls, and pins what a tag means now."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import OCI_INDEX, files, manifest, sha256
from tests.support.calls import refused
from tests.support.driver import MULTI_NODE_READER_ONLY, SINGLE_NODE_WRITER, Driver, mount_capability
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.planted import planted
from tests.support.pods import Held, wait_for

pytestmark = pytest.mark.needs("root")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.shared"]
Code = grpc.StatusCode
_Mode = csi_pb2.VolumeCapability.AccessMode
_WRITER = _Mode(mode=SINGLE_NODE_WRITER)
_BLOCK = csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=_WRITER)
_NO_TYPE = csi_pb2.VolumeCapability(access_mode=_WRITER)
_READER = mount_capability(MULTI_NODE_READER_ONLY)
_CLONE = csi_pb2.VolumeContentSource(volume=csi_pb2.VolumeContentSource.VolumeSource(volume_id="x"))


@pytest.fixture
def reference(fake: FakeRegistry) -> str:
    return fake.artifact("team/model", files(x=b"content"))


def create(driver: Driver, name: str = "pvc-1", **changes: object) -> csi_pb2.Volume:
    fields: dict[str, object] = {
        "volume_capabilities": [mount_capability()],
        "capacity_range": csi_pb2.CapacityRange(required_bytes=10 << 30),
        **changes,
    }
    request = csi_pb2.CreateVolumeRequest(name=name, **fields)  # type: ignore[arg-type]
    return driver.controller.CreateVolume(request, timeout=30).volume


def validate(
    driver: Driver, volume_id: str, *capabilities: csi_pb2.VolumeCapability
) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
    request = csi_pb2.ValidateVolumeCapabilitiesRequest(
        volume_id=volume_id, volume_capabilities=capabilities, volume_context={"reference": "x"}, parameters={"a": "b"}
    )
    return driver.controller.ValidateVolumeCapabilities(request, timeout=10)


def test_create_pins_the_digest_and_pulls_nothing(shared_driver: Driver, fake: FakeRegistry, reference: str) -> None:
    volume = create(shared_driver, parameters={"reference": reference})
    assert volume.volume_context["reference"] == f"{reference}@{sha256(manifest(files(x=b'content')))}"
    assert volume.capacity_bytes == 0
    assert list(volume.accessible_topology) == []
    assert fake.count("/blobs/") == 0
    assert fake.count("/manifests/") == 1


def test_create_keeps_where_to_push_with_its_templates_expanded(shared_driver: Driver, fake: FakeRegistry) -> None:
    claim = {"csi.storage.k8s.io/pvc/name": "step-1"}
    parameters = {"writeBackReference": "reg.example/out/${pvc.metadata.name}", "writeBackExclude": "*.tmp"}
    volume = create(shared_driver, parameters={**parameters, **claim})
    assert volume.volume_context == {
        "writeBackReference": "reg.example/out/step-1:latest", "writeBackExclude": "*.tmp", **claim,
    }  # fmt: skip
    assert fake.count("/manifests/") == 0


def test_create_is_idempotent_by_name_and_parameters(shared_driver: Driver, reference: str) -> None:
    parameters = {"reference": reference, "include": "*"}
    first = create(shared_driver, parameters=parameters)
    again = create(shared_driver, parameters=dict(reversed(parameters.items())))
    assert first == again
    other_name = create(shared_driver, name="pvc-2", parameters=parameters)
    other_parameters = create(shared_driver, parameters={"reference": reference})
    assert len({first.volume_id, other_name.volume_id, other_parameters.volume_id}) == 3
    # never the artifact: two claims with one handle in one pod would hang it
    assert first.volume_id.startswith("oras1-")
    assert len(first.volume_id) <= 128


def test_create_after_a_moved_tag_has_the_same_id_and_the_new_digest(
    shared_driver: Driver, fake: FakeRegistry, reference: str
) -> None:
    first = create(shared_driver, parameters={"reference": reference})
    fake.artifact("team/model", files(x=b"moved"))
    second = create(shared_driver, parameters={"reference": reference})
    assert first.volume_id == second.volume_id
    assert first.volume_context["reference"] != second.volume_context["reference"]


@pytest.mark.parametrize("name", ["x" * 128, "pvc mit Leerzeichen", "ü", "a\tb", "a/b"])
def test_create_takes_every_name_that_the_specification_allows(
    shared_driver: Driver, reference: str, name: str
) -> None:
    assert create(shared_driver, name=name, parameters={"reference": reference}).volume_id.startswith("oras1-")


@pytest.mark.parametrize("mode", [SINGLE_NODE_WRITER, _Mode.SINGLE_NODE_READER_ONLY, MULTI_NODE_READER_ONLY])
def test_create_takes_every_mode_that_can_be_served(shared_driver: Driver, reference: str, mode: object) -> None:
    capabilities = [mount_capability(mode), mount_capability(MULTI_NODE_READER_ONLY)]
    create(shared_driver, parameters={"reference": reference}, volume_capabilities=capabilities)


def test_create_uses_the_provisioners_secret(shared_driver: Driver, fake: FakeRegistry, reference: str) -> None:
    fake.require_basic("alice", "correct")
    with refused(Code.UNAUTHENTICATED, reference):
        create(shared_driver, parameters={"reference": reference})
    secrets = {"username": "alice", "password": planted("correct")}
    volume = create(shared_driver, parameters={"reference": reference}, secrets=secrets)
    assert "correct" not in str(volume)


def test_create_of_an_index_pins_the_index(shared_driver: Driver, fake: FakeRegistry) -> None:
    """The platform is each node's own."""
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    fake.manifest("team/index", "v1", index, OCI_INDEX)
    volume = create(shared_driver, parameters={"reference": f"{fake.address}/team/index:v1"})
    assert volume.volume_context["reference"].endswith(sha256(index))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "a\x07b"}, "name"),
        ({"volume_capabilities": []}, "volume_capabilities"),
        ({"volume_capabilities": [mount_capability(_Mode.MULTI_NODE_MULTI_WRITER)]}, "MULTI_NODE_MULTI_WRITER"),
        (
            {"volume_capabilities": [mount_capability(), mount_capability(_Mode.MULTI_NODE_SINGLE_WRITER)]},
            "SINGLE_WRITER",
        ),
        ({"volume_capabilities": [mount_capability(flags=("suid",))]}, "suid"),
        ({"volume_capabilities": [_BLOCK]}, "block"),
        ({"volume_capabilities": [_NO_TYPE]}, "access type"),
        ({"volume_content_source": _CLONE}, "volume_content_source"),
        ({"parameters": {}}, "reference"),
        ({"parameters": {"reference": "reg.example/a:v1", "typo": "x"}}, "typo"),
        ({"parameters": {"reference": "reg.example/${pvc.metadata.name}:v1"}}, "${pvc.metadata.name}"),
        ({"parameters": {"reference": "reg.example/${pod.metadata.name}:v1"}}, "${pod.metadata.name}"),
        ({"parameters": {"writeBackReference": f"reg.example/b@sha256:{'0' * 64}"}}, "writeBack"),
        (
            {"parameters": {"writeBackReference": "reg.example/b:v1"}, "volume_capabilities": [_READER]},
            "a read-only volume has nothing else to show",
        ),
        ({"parameters": {"reference": "reg.example/a:v1", "include": "x" * 4090}}, "4096"),
    ],
    ids=str,
)
def test_create_with_a_bad_field_is_invalid_argument(
    shared_driver: Driver, changes: dict[str, object], word: str
) -> None:
    fields = {"parameters": {"reference": "reg.example/a:v1"}, **changes}
    with refused(Code.INVALID_ARGUMENT, word):
        create(shared_driver, **fields)  # type: ignore[arg-type]


def test_create_of_an_absent_tag_is_not_found(shared_driver: Driver, fake: FakeRegistry, reference: str) -> None:
    del reference
    with refused(Code.NOT_FOUND, f"{fake.address}/team/model:absent"):
        create(shared_driver, parameters={"reference": f"{fake.address}/team/model:absent"})


def test_create_while_the_registry_fails_is_unavailable(
    shared_driver: Driver, fake: FakeRegistry, reference: str
) -> None:
    fake.bend("/manifests/", status(503))
    with refused(Code.UNAVAILABLE, reference):
        create(shared_driver, parameters={"reference": reference})


def test_create_does_not_wait_for_the_tags_of_another_registry(shared_driver: Driver, reference: str) -> None:
    with FakeRegistry() as dead, ThreadPoolExecutor(100) as background:
        held = Held()
        dead.bend("/manifests/", held)
        absent = dead.artifact("team/model", files(x=b"x"))
        claims = [
            background.submit(create, shared_driver, f"pvc-{number}", parameters={"reference": absent})
            for number in range(100)
        ]
        wait_for(lambda: dead.count("/manifests/") >= 16)  # all that one registry gets
        assert create(shared_driver, "pvc-good", parameters={"reference": reference}).volume_id
        assert not any(claim.done() for claim in claims)
        held.release()
        for claim in claims:
            with suppress(grpc.RpcError):
                claim.result()


def test_delete_of_anything_is_success(shared_driver: Driver, fake: FakeRegistry, reference: str) -> None:
    volume = create(shared_driver, parameters={"reference": reference})
    for volume_id in (volume.volume_id, volume.volume_id, "unknown", "pvc-of-another-driver"):
        shared_driver.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume_id), timeout=10)
    assert fake.count(method="DELETE") == 0  # the artifact is not ours to delete


def test_delete_without_an_id_is_invalid_argument(shared_driver: Driver) -> None:
    with refused(Code.INVALID_ARGUMENT, "volume_id"):
        shared_driver.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(), timeout=10)


def test_validate_confirms_what_can_be_served_and_echoes_it(shared_driver: Driver, reference: str) -> None:
    volume = create(shared_driver, parameters={"reference": reference})
    capabilities = [mount_capability(), mount_capability(MULTI_NODE_READER_ONLY)]
    answer = validate(shared_driver, volume.volume_id, *capabilities)
    assert list(answer.confirmed.volume_capabilities) == capabilities
    assert dict(answer.confirmed.volume_context) == {"reference": "x"}
    assert dict(answer.confirmed.parameters) == {"a": "b"}
    assert answer.message == ""


def test_validate_confirms_nothing_when_one_of_all_cannot_be_served(shared_driver: Driver, reference: str) -> None:
    volume = create(shared_driver, parameters={"reference": reference})
    answer = validate(
        shared_driver, volume.volume_id, mount_capability(), mount_capability(_Mode.MULTI_NODE_MULTI_WRITER)
    )
    assert not answer.HasField("confirmed")
    assert "MULTI_NODE_MULTI_WRITER" in answer.message


@pytest.mark.parametrize("volume_id", ["fake-vol-id-1234567890", "oras1-", "oras1-" + "z" * 64, "xoras1-" + "0" * 64])
def test_validate_of_a_volume_that_is_not_ours_is_not_found(shared_driver: Driver, volume_id: str) -> None:
    with refused(Code.NOT_FOUND, volume_id):
        validate(shared_driver, volume_id, mount_capability())


def test_validate_with_a_missing_field_is_invalid_argument(shared_driver: Driver) -> None:
    with refused(Code.INVALID_ARGUMENT, "volume_id"):
        validate(shared_driver, "", mount_capability())
    with refused(Code.INVALID_ARGUMENT, "volume_capabilities"):
        validate(shared_driver, "oras1-" + "0" * 64)


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("ControllerPublishVolume", csi_pb2.ControllerPublishVolumeRequest),
        ("ListVolumes", csi_pb2.ListVolumesRequest),
        ("GetCapacity", csi_pb2.GetCapacityRequest),
        ("CreateSnapshot", csi_pb2.CreateSnapshotRequest),
        ("ControllerExpandVolume", csi_pb2.ControllerExpandVolumeRequest),
        ("ControllerModifyVolume", csi_pb2.ControllerModifyVolumeRequest),
    ],
)
def test_call_that_is_not_advertised_is_unimplemented(
    shared_driver: Driver, method: str, request_type: type[object]
) -> None:
    with refused(Code.UNIMPLEMENTED):
        getattr(shared_driver.controller, method)(request_type(), timeout=10)
    assert "a bug" not in shared_driver.log
