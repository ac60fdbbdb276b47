"""What pods see: each kind of volume and each attribute, through the socket and real mounts."""

import json
import platform

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import DOCKER_MANIFEST, EMPTY_TYPE, OCI_INDEX, Layer, Pusher, files, manifest, sha256
from tests.support.calls import refused
from tests.support.driver import MULTI_NODE_READER_ONLY, Driver, mount_capability, pod_context
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]

_TREE = [
    Layer(content=b"{}x", title="config.json", media_type="application/x.config"),
    Layer(content=b"weights-1", title="weights/1.bin", media_type="application/x.weights"),
    Layer(content=b"weights-2", title="weights/deep/2.bin", media_type="application/x.weights"),
    Layer(content=b"read me", title="README.md", media_type="text/markdown"),
]
_METADATA = [".oci/config", ".oci/manifest.json", ".oci/reference"]
_ALL = ["README.md", "config.json", "weights/1.bin", "weights/deep/2.bin"]
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture
def tree(pusher: Pusher, repository: str) -> str:
    """An artifact of several files in nested directories."""
    return pusher.artifact(repository, _TREE)


def create_request(name: str, **parameters: str) -> csi_pb2.CreateVolumeRequest:
    return csi_pb2.CreateVolumeRequest(
        name=name,
        volume_capabilities=[mount_capability(MULTI_NODE_READER_ONLY)],
        parameters=parameters,
        capacity_range=csi_pb2.CapacityRange(required_bytes=1 << 30),
    )


# -- kinds of volumes


def test_inline_volume_shows_the_artifact(volume: Volume, tree: str) -> None:
    volume.publish(reference=tree, **pod_context())
    assert volume.names() == _ALL
    assert (volume.target / "weights/deep/2.bin").read_bytes() == b"weights-2"


def test_inline_volume_takes_templates_of_its_pod(volume: Volume, pusher: Pusher, repository: str) -> None:
    pusher.artifact(f"{repository}/team-a", files(x=b"pod's own"), tag="web-0")
    template = f"{pusher.address}/{repository}/${{pod.metadata.namespace}}:${{pod.metadata.name}}"
    volume.publish(reference=template, **pod_context(name="web-0", namespace="team-a"))
    assert (volume.target / "x").read_bytes() == b"pod's own"


def test_inline_volume_without_its_pod_is_refused(volume: Volume, tree: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "podInfoOnMount"):
        volume.publish(reference=tree, **{"csi.storage.k8s.io/ephemeral": "true"})
    assert volume.is_gone()


def test_claim_shows_the_digest_that_its_tag_had_when_it_was_created(
    shared_driver: Driver, volume: Volume, pusher: Pusher, repository: str
) -> None:
    reference = pusher.artifact(repository, files(x=b"old"))
    created = shared_driver.controller.CreateVolume(create_request("pvc-1", reference=reference)).volume
    assert created.volume_context["reference"] == f"{reference}@{sha256(manifest(files(x=b'old')))}"
    assert created.capacity_bytes == 0
    pusher.artifact(repository, files(x=b"new"))
    volume.publish(**dict(created.volume_context), capability=mount_capability(MULTI_NODE_READER_ONLY))
    assert (volume.target / "x").read_bytes() == b"old"


def test_claim_takes_templates_of_its_own_names(
    shared_driver: Driver, volume: Volume, pusher: Pusher, repository: str
) -> None:
    pusher.artifact(f"{repository}/team-a/models", files(x=b"claimed"), tag="pv-7")
    template = "/${pvc.metadata.namespace}/${pvc.metadata.name}:${pv.metadata.name}"
    names = {
        "csi.storage.k8s.io/pvc/name": "models",
        "csi.storage.k8s.io/pvc/namespace": "team-a",
        "csi.storage.k8s.io/pv/name": "pv-7",
    }
    request = create_request("pv-7", reference=f"{pusher.address}/{repository}{template}", **names)
    created = shared_driver.controller.CreateVolume(request).volume
    assert f"{repository}/team-a/models:pv-7@sha256:" in created.volume_context["reference"]
    volume.publish(**dict(created.volume_context))
    assert (volume.target / "x").read_bytes() == b"claimed"


def test_claim_keeps_its_other_parameters(shared_driver: Driver, volume: Volume, tree: str) -> None:
    request = create_request("pvc-1", **{"oras.artifact.reference": tree, "include": "*.md", "noexec": "true"})
    created = shared_driver.controller.CreateVolume(request).volume
    assert set(created.volume_context) == {"reference", "include", "noexec"}
    volume.publish(**dict(created.volume_context))
    assert volume.names() == ["README.md"]


def test_static_volume_has_any_id_and_needs_no_controller(shared_driver: Driver, tree: str) -> None:
    target = shared_driver.target("static", pod="static")
    for volume_id in ("my static volume", "registry.example/a:b@c", "ü" * 64, "../../etc"):
        shared_driver.publish(
            target, volume_id=volume_id, reference=tree, capability=mount_capability(MULTI_NODE_READER_ONLY)
        )
        assert (target / "README.md").exists()
        shared_driver.unpublish(target, volume_id=volume_id)
        assert not target.exists()


# -- attributes


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({}, _ALL),
        ({"include": "*.md"}, ["README.md"]),
        ({"include": "**/*.bin"}, ["weights/1.bin", "weights/deep/2.bin"]),
        ({"include": "weights"}, ["weights/1.bin", "weights/deep/2.bin"]),
        ({"include": "weights/*.bin"}, ["weights/1.bin"]),
        ({"exclude": "weights, *.md"}, ["config.json"]),
        ({"include": "weights", "exclude": "weights/deep/**"}, ["weights/1.bin"]),
        ({"mediaTypes": "application/x.weights"}, ["weights/1.bin", "weights/deep/2.bin"]),
        ({"mediaTypes": "text/markdown,application/x.config"}, ["README.md", "config.json"]),
        ({"oras.artifact.layers.mediatype": "text/markdown"}, ["README.md"]),
        ({"path": "weights"}, ["1.bin", "deep/2.bin"]),
        ({"path": "weights/deep"}, ["2.bin"]),
        ({"path": "weights", "exclude": "weights/1.bin"}, ["deep/2.bin"]),
        ({"unpack": "never", "mode": "eager", "metadata": "false"}, _ALL),
        ({"metadata": "true"}, [*_METADATA, *_ALL]),
        ({"metadata": "true", "path": "weights/deep"}, [*_METADATA, "2.bin"]),
        ({"oras.options.plainhttp": "true", "oras.options.concurrency": "3"}, _ALL),
    ],
    ids=str,
)  # fmt: skip
def test_selection_shows_what_it_says(volume: Volume, tree: str, attributes: dict[str, str], names: list[str]) -> None:
    volume.publish(reference=tree, **attributes)
    assert volume.names() == names


def test_path_of_a_file_makes_the_target_that_file(volume: Volume, tree: str) -> None:
    volume.publish(reference=tree, path="weights/deep/2.bin")
    assert volume.target.is_file()
    assert volume.target.read_bytes() == b"weights-2"
    volume.unpublish()
    assert volume.is_gone()


@pytest.mark.parametrize("attributes", [{"include": "nothing"}, {"path": "no/where"}, {"mediaTypes": "a/b"}], ids=str)
def test_selection_that_leaves_nothing_is_refused(volume: Volume, tree: str, attributes: dict[str, str]) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, tree):
        volume.publish(reference=tree, **attributes)
    assert volume.is_gone()


def test_volumes_of_one_artifact_with_other_selections_stand_beside_each_other(
    volume: Volume, other: Volume, tree: str
) -> None:
    volume.publish(reference=tree, include="*.md")
    other.publish(reference=tree)
    assert (volume.names(), other.names()) == (["README.md"], _ALL)


@pytest.mark.parametrize("how", ["attribute", "mount flag", "not at all"])
def test_noexec_is_on_the_mount_when_asked_for(volume: Volume, tree: str, how: str) -> None:
    flags = ("noexec",) if how == "mount flag" else ()
    attributes = {"noexec": "true"} if how == "attribute" else {}
    volume.publish(reference=tree, capability=mount_capability(flags=flags), **attributes)
    assert ("noexec" in volume.options) == (how != "not at all")
    assert {"ro", "nosuid", "nodev"} <= volume.options


def test_volume_is_read_only_whatever_the_pod_asks_for(volume: Volume, tree: str) -> None:
    volume.publish(reference=tree, readonly=False)
    for attempt in (
        lambda: (volume.target / "README.md").write_text("x"),
        lambda: (volume.target / "new").write_text("x"),
        (volume.target / "README.md").unlink,
        lambda: (volume.target / "README.md").chmod(0o777),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()


def test_untitled_layer_is_named_by_its_digest(volume: Volume, pusher: Pusher, repository: str) -> None:
    volume.publish(reference=pusher.artifact(repository, [Layer(content=b"nameless")]))
    assert volume.names() == [sha256(b"nameless").replace(":", "-")]


def test_artifact_without_files_is_an_empty_volume(volume: Volume, pusher: Pusher, repository: str) -> None:
    volume.publish(reference=pusher.artifact(repository, [Layer(content=b"{}", media_type=EMPTY_TYPE)]))
    assert volume.target.is_dir()
    assert volume.names() == []


def test_docker_manifest_is_a_volume(volume: Volume, pusher: Pusher, repository: str) -> None:
    volume.publish(reference=pusher.artifact(repository, files(x=b"docker"), media_type=DOCKER_MANIFEST))
    assert (volume.target / "x").read_bytes() == b"docker"


@pytest.mark.parametrize(
    ("attributes", "content"),
    [({}, _MACHINE.encode()), ({"platform": "linux/s390x"}, b"s390x"), ({"platform": "linux/arm/v7"}, b"v7")],
    ids=["the node's own", "s390x", "arm/v7"],
)
def test_index_shows_the_platform_that_is_asked_for(
    volume: Volume, pusher: Pusher, repository: str, attributes: dict[str, str], content: bytes
) -> None:
    entries = []
    platforms = [{"architecture": _MACHINE}, {"architecture": "s390x"}, {"architecture": "arm", "variant": "v7"}]
    for found in platforms:
        layers = files(x=(found.get("variant") or found["architecture"]).encode())
        pusher.artifact(repository, layers, tag="p-" + found["architecture"])
        held = manifest(layers)
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": sha256(held),
                "size": len(held),
                "platform": {"os": "linux", **found},
            }
        )
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    pusher.manifest(repository, "all", index, OCI_INDEX)
    volume.publish(reference=f"{pusher.address}/{repository}:all", **attributes)
    assert (volume.target / "x").read_bytes() == content


def test_volume_is_not_written_back_unless_node_policy_says_so(volume: Volume, tree: str) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED, "reg.example/out:v1", "writeBack.enabled"):
        volume.publish(reference=tree, writeBackReference="reg.example/out:v1", readonly=False)
    assert volume.is_gone()


def test_volume_that_is_asked_for_read_only_shows_the_artifact_and_pushes_nothing(volume: Volume, tree: str) -> None:
    volume.publish(reference=tree, writeBackReference="reg.example/out:v1", readonly=True)
    assert "ro" in volume.options
    assert volume.names()
