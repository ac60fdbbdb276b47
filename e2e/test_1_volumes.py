"""What pods see of their volumes on a cluster, while the driver comes and is restarted; in this order."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from e2e import manifests
from e2e.cluster import (
    KubectlError,
    apply,
    delete,
    eventually,
    get,
    kubectl,
    roll_out,
    run_inside,
    wait_ready,
)
from e2e.conftest import EXAMPLES, FILES, push, write_files
from e2e.manifests import NAMESPACE, SYSTEM, Settings
from e2e.pods import DRIVER, applied, contents, described, driver_pods, registered_nodes, running, told
from e2e.publisher import publish
from tests.support.artifacts import Layer
from tests.support.kinds_archives import DIRECTORY, Packed, oras_directory, pack
from tests.support.tars import tar

SHOWN = {
    "inline": {name: content for name, content in FILES.items() if not name.endswith(".md")},
    "storageclass": FILES,
    "static": {"layer-0.bin": FILES["weights/layer-0.bin"]},
}
"""What each example selects of the artifact."""

pytestmark = pytest.mark.timeout(600)


def mounts() -> int:
    """Count the volumes that the nodes have mounted, as the kernel of each node says."""
    script = "grep -c '/trees/.*kubernetes.io~csi' /proc/self/mountinfo || true"
    return sum(int(run_inside(pod, script, SYSTEM, "csi-oras")) for pod in driver_pods())


@pytest.mark.usefixtures("driver")
def test_daemonset_when_rolled_out_is_registered_on_each_of_its_nodes() -> None:
    pods = get("pods", "--selector", "app.kubernetes.io/component=node", namespace=SYSTEM)["items"]
    nodes = {pod["spec"]["nodeName"] for pod in pods}
    assert nodes
    eventually(lambda: nodes <= registered_nodes(), f"registered on {nodes}")


@pytest.mark.parametrize("example", EXAMPLES)
def test_volume_when_read_in_the_pod_shows_the_artifact(pods: dict[str, str], example: str) -> None:
    assert contents(pods[example]) == SHOWN[example]


@pytest.mark.parametrize("example", EXAMPLES)
def test_volume_when_written_in_the_pod_refuses(pods: dict[str, str], example: str) -> None:
    with pytest.raises(KubectlError, match="Read-only file system"):
        run_inside(pods[example], "echo x > /model/new", NAMESPACE)
    with pytest.raises(KubectlError, match="Read-only file system"):
        run_inside(pods[example], "rm -r /model/*", NAMESPACE)


@pytest.mark.usefixtures("pods")
def test_claim_when_bound_pins_the_tag_to_a_digest() -> None:
    claim = get("persistentvolumeclaim", "model", namespace=NAMESPACE)
    volume = get("persistentvolume", claim["spec"]["volumeName"])
    assert re.search(r"@sha256:[0-9a-f]{64}$", volume["spec"]["csi"]["volumeAttributes"]["reference"])


@pytest.mark.usefixtures("artifact", "namespace")
def test_bad_reference_when_mounted_is_said_in_an_event_of_the_pod(settings: Settings) -> None:
    wrong = f"{settings.registry}/examples/model:no-such-tag"
    text = manifests.example("inline", settings).replace(f"{settings.registry}/examples/model:v1", wrong)
    text = text.replace("oras-inline", "oras-wrong")
    with applied(text):
        eventually(lambda: told("oras-wrong", wrong), "an event that names the reference")


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("kind", ["image", "oras", "modelpack zstd"])
def test_packed_directory_when_read_in_the_pod_is_unpacked(settings: Settings, tmp_path: Path, kind: str) -> None:
    write_files(tmp_path)
    name = kind.replace(" ", "-")
    reference = f"{settings.registry}/examples/{name}:v1"
    publish(reference, pack(kind, tmp_path))
    with running(f"oras-{name}", settings, reference):
        assert contents(f"oras-{name}") == {f"{DIRECTORY}/{file}": content for file, content in FILES.items()}


@pytest.mark.usefixtures("namespace")
def test_path_to_a_file_of_an_archive_when_read_in_the_pod_is_the_volume(settings: Settings, tmp_path: Path) -> None:
    write_files(tmp_path)
    reference = f"{settings.registry}/examples/oras:v1"
    publish(reference, pack("oras", tmp_path))
    with running("oras-file", settings, reference, path=f"{DIRECTORY}/weights/layer-0.bin"):
        assert run_inside("oras-file", "cat /model", NAMESPACE) == FILES["weights/layer-0.bin"]


@pytest.mark.usefixtures("namespace")
def test_metadata_when_read_in_the_pod_is_what_the_registry_has(settings: Settings, tmp_path: Path) -> None:
    write_files(tmp_path)
    reference = f"{settings.registry}/examples/image:v1"
    packed = pack("image", tmp_path)
    digest = publish(reference, packed)
    with running("oras-metadata", settings, reference, metadata="true", path=DIRECTORY):
        shown = contents("oras-metadata")
    manifest = shown.pop(".oci/manifest.json")
    assert f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}" == digest
    assert shown.pop(".oci/reference").strip() == f"{reference}@{digest}"
    assert shown.pop(".oci/config") == packed.config.content.decode()
    assert shown == FILES


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        pytest.param({"name": "../evil"}, 'member "../evil" has a ".." component', id="outside"),
        pytest.param({"name": "tree/x", "type": "character"}, 'member "tree/x" is a character device', id="device"),
    ],
)
def test_hostile_archive_when_mounted_is_said_in_an_event_of_the_pod(
    settings: Settings, member: Mapping[str, str], sentence: str, request: pytest.FixtureRequest
) -> None:
    pod = f"oras-{request.node.callspec.id}"
    reference = f"{settings.registry}/examples/hostile:{request.node.callspec.id}"
    publish(reference, Packed(layers=[oras_directory(DIRECTORY, tar([member]))]))
    with applied(manifests.inline(pod, {"reference": reference}, settings)):
        eventually(lambda: told(pod, sentence), "an event that names the member")


@pytest.mark.usefixtures("namespace")
def test_cold_pull_when_it_has_ended_is_told_in_the_description_of_the_pod(settings: Settings) -> None:
    reference = f"{settings.registry}/examples/told:v1"
    digest = publish(reference, Packed(layers=[Layer(content=os.urandom(1000), title="x")]))  # new to the nodes
    with running("oras-told", settings, reference):
        eventually(lambda: len(described("oras-told")) == 2, "two events of the driver")
        pulling, pulled = described("oras-told")
    assert pulling.startswith("Normal Pulling ")
    assert pulling.endswith(f"{DRIVER} Pulling artifact {reference}")
    assert pulled.startswith("Normal Pulled ")
    assert f"Pulled artifact {reference}@{digest}: " in pulled


@pytest.mark.usefixtures("pods")
def test_metrics_when_scraped_count_the_volumes() -> None:
    paths = [f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:9819/proxy/metrics" for pod in driver_pods()]
    text = "".join(kubectl("get", "--raw", path) for path in paths)
    volumes = re.findall(r"^csi_oras_published_volumes\S* (\S+)$", text, re.MULTILINE)
    assert sum(map(float, volumes)) == len(EXAMPLES)
    assert "csi_plugin_operations_seconds_bucket" in text


def test_driver_when_restarted_leaves_running_pods_their_volumes(pods: dict[str, str]) -> None:
    before = {pod: get("pod", pod, namespace=NAMESPACE)["status"]["containerStatuses"] for pod in pods.values()}
    old = set(driver_pods())
    kubectl("rollout", "restart", "daemonset/csi-oras-node", namespace=SYSTEM)
    roll_out("daemonset/csi-oras-node", SYSTEM)
    assert not old & set(driver_pods())
    assert {example: contents(pods[example]) for example in EXAMPLES} == SHOWN
    assert before == {pod: get("pod", pod, namespace=NAMESPACE)["status"]["containerStatuses"] for pod in before}


@pytest.mark.usefixtures("pods")
def test_pod_when_made_after_the_restart_gets_its_volume(settings: Settings, namespace: str) -> None:
    text = manifests.example("inline", settings).replace("oras-inline", "oras-later")
    apply(text, namespace)
    try:
        wait_ready("oras-later", namespace)
        assert contents("oras-later") == SHOWN["inline"]
    finally:
        delete(text, namespace)


def test_private_registry_when_the_secret_is_named_is_pulled_from(
    settings: Settings, namespace: str, tmp_path: Path
) -> None:
    private = settings.private
    if private is None:
        pytest.skip("private registry was NOT TRIED: CSI_ORAS_E2E_PRIVATE_REGISTRY names none")
    for repository in ("model", "private-model"):
        reference = f"{private.registry}/examples/{repository}:v1"
        credential = ["--username", private.username, "--password-stdin"]
        push(reference, tmp_path / repository, *credential, password=private.password)
    text = manifests.example("private", settings)
    apply(text, namespace)
    try:
        for pod in ("oras-private-inline", "oras-private-claim"):
            wait_ready(pod, namespace)
            assert contents(pod) == FILES
        # the claim before the secret: csi-provisioner wants it for the deletion, too
        volume = get("persistentvolumeclaim", "private-model", namespace=namespace)["spec"]["volumeName"]
        kubectl("delete", "pod/oras-private-claim", "persistentvolumeclaim/private-model", namespace=namespace)
        eventually(lambda: get("persistentvolume", volume) is None, f"PersistentVolume {volume} deleted with its claim")
    finally:
        delete(text, namespace)


def test_pods_when_deleted_leave_no_volume(settings: Settings, pods: dict[str, str], namespace: str) -> None:
    volume = get("persistentvolumeclaim", "model", namespace=namespace)["spec"]["volumeName"]
    assert mounts() == len(pods)
    for example in EXAMPLES:
        delete(manifests.example(example, settings), namespace)
    assert mounts() == 0
    eventually(lambda: get("persistentvolume", volume) is None, f"PersistentVolume {volume} deleted with its claim")
