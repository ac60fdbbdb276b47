"""What pods see of their volumes on a cluster, while the driver comes, is restarted and goes; in this order."""

import re
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
from e2e.conftest import EXAMPLES, FILES, push
from e2e.manifests import NAMESPACE, SYSTEM, Settings

DRIVER = "csi.oras.land"
SHOWN = {
    "inline": {name: content for name, content in FILES.items() if not name.endswith(".md")},
    "storageclass": FILES,
    "static": {"layer-0.bin": FILES["weights/layer-0.bin"]},
}
"""What each example selects of the artifact."""
OURS = "app.kubernetes.io/part-of=csi-oras"
KINDS = "all,csidrivers,clusterroles,clusterrolebindings,roles,rolebindings,storageclasses,serviceaccounts,configmaps"

pytestmark = pytest.mark.timeout(600)


def contents(pod: str) -> dict[str, str]:
    """Read every file of a pod's volume from inside the pod."""
    names = run_inside(pod, "cd /model && find . -type f", NAMESPACE).split()
    return {name.removeprefix("./"): run_inside(pod, f"cat /model/{name}", NAMESPACE) for name in names}


def driver_pods() -> list[str]:
    """Return the pods of the DaemonSet."""
    found = get("pods", "--selector", "app.kubernetes.io/component=node", namespace=SYSTEM)
    return [pod["metadata"]["name"] for pod in found["items"]]


def mounts() -> int:
    """Count the volumes that the nodes have mounted, as the kernel of each node says."""
    script = "grep -c '/trees/.*kubernetes.io~csi' /proc/self/mountinfo || true"
    return sum(int(run_inside(pod, script, SYSTEM, "csi-oras")) for pod in driver_pods())


def registered_nodes() -> set[str]:
    """Return the nodes whose kubelets know the driver."""
    nodes = get("csinodes")["items"]
    return {
        node["metadata"]["name"]
        for node in nodes
        if any(driver["name"] == DRIVER for driver in node["spec"]["drivers"] or [])
    }


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


@pytest.mark.usefixtures("artifact")
def test_bad_reference_when_mounted_is_said_in_an_event_of_the_pod(settings: Settings, namespace: str) -> None:
    wrong = f"{settings.registry}/examples/model:no-such-tag"
    text = manifests.example("inline", settings).replace(f"{settings.registry}/examples/model:v1", wrong)
    text = text.replace("oras-inline", "oras-wrong")
    apply(text, namespace)

    def told() -> bool:
        events = get("events", "--field-selector", "involvedObject.name=oras-wrong", namespace=namespace)["items"]
        return any(event["reason"] == "FailedMount" and wrong in event["message"] for event in events)

    try:
        eventually(told, "an event that names the reference")
    finally:
        delete(text, namespace)


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


@pytest.mark.usefixtures("driver")
def test_controller_when_it_has_served_was_refused_nothing() -> None:
    found = get("pods", "--selector", "app.kubernetes.io/component=controller", namespace=SYSTEM)["items"]
    names = [pod["metadata"]["name"] for pod in found]
    logs = "".join(kubectl("logs", name, "--container", "csi-provisioner", namespace=SYSTEM) for name in names)
    assert "ProvisioningSucceeded" in logs
    assert [line for line in logs.splitlines() if "forbidden" in line.lower()] == []


def test_manifests_when_deleted_leave_nothing(driver: str) -> None:
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")
    delete(driver)
    left = get(KINDS, "--all-namespaces", "--selector", OURS)
    assert [item["metadata"]["name"] for item in (left or {"items": []})["items"]] == []
    assert get("namespace", SYSTEM) is None
    eventually(lambda: not registered_nodes(), "the kubelets forget the driver")
