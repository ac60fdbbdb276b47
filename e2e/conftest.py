"""The manifests of deploy/ on a real cluster, with real pods. `make test` does not run this: it needs a cluster.

    KUBECONFIG=... CSI_ORAS_E2E_REGISTRY=registry.example.com/scratch .venv/bin/python -m pytest e2e

applies deploy/daemonset, pushes small artifacts to the registry, runs pods with volumes of each kind, restarts the
driver under them, and takes everything away again. The cluster must not have csi-oras yet. The examples of
deploy/daemonset/examples are what is applied, with their registry, image and namespace replaced.

KUBECONFIG                      the cluster, as its administrator; without it nothing is run
KUBECTL                         the program, `kubectl` by default
CSI_ORAS_E2E_REGISTRY           where test artifacts are pushed to, and pulled from without a credential: HTTPS, or a
                                loopback address that means the same to the nodes; without it nothing is run
CSI_ORAS_E2E_REGISTRY_CONFIG    a docker config.json with the credential for pushing there
CSI_ORAS_E2E_PRIVATE_REGISTRY   a registry that wants a credential; without it that test is skipped
CSI_ORAS_E2E_PRIVATE_USERNAME   the credential,
CSI_ORAS_E2E_PRIVATE_PASSWORD   for pushing and for pulling
CSI_ORAS_IMAGE                  the driver's image, if not that of the manifests
CSI_ORAS_E2E_SIDECARS           where the sidecars' images are, `registry.k8s.io/sig-storage` by default
CSI_ORAS_E2E_KUBELET_DIR        the kubelet's directory, `/var/lib/kubelet` by default
CSI_ORAS_E2E_HOST_NETWORK       `true`: driver and controller use the node's network, for a registry on its loopback
CSI_ORAS_E2E_API                `HOST:PORT` of the API server, for a cluster without kube-proxy
CSI_ORAS_E2E_POD_IMAGE          an image with sh, cat and find, `busybox:1.37` by default
CSI_ORAS_E2E_REGISTRY_IMAGE     the registry that the workflow's example runs, `registry:3.0.0` by default;
                                it wants a default StorageClass or a PersistentVolume of 10Gi, and Services with names
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import manifests
from e2e.cluster import SECONDS, apply, delete, eventually, get, kubectl, roll_out, wait_ready
from e2e.manifests import NAMESPACE, SYSTEM, WRITTEN, Settings

FILES = {
    "config.json": '{"layers": 1}\n',
    "README.md": "# a model\n",
    "weights/layer-0.bin": "0123456789\n" * 1000,
}
EXAMPLES = ("inline", "storageclass", "static")


@pytest.fixture(scope="session")
def settings() -> Settings:
    """What is known of the cluster."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("e2e was NOT RUN: KUBECONFIG names no cluster")
    found = Settings.of_environment()
    if not found.registry:
        pytest.skip("e2e was NOT RUN: CSI_ORAS_E2E_REGISTRY names no registry that this machine and the nodes reach")
    return found


@pytest.fixture(scope="session")
def driver(settings: Settings) -> Iterator[str]:
    """The manifests, rolled out; they go with the last test."""
    for kind, name in (("csidriver", "csi.oras.land"), ("namespace", SYSTEM), ("namespace", NAMESPACE)):
        assert get(kind, name) is None, f"the cluster has {kind} {name} already: this suite would delete it"
    text = manifests.deployment(settings)
    try:
        apply(text)
        roll_out("daemonset/csi-oras-node", SYSTEM)
        roll_out("deployment/csi-oras-controller", SYSTEM)
        wait_for_mounter()
        yield text
    finally:
        delete(text)


@pytest.fixture(scope="session")
def namespace(driver: str) -> Iterator[str]:  # noqa: ARG001 (without a driver pods could not end)
    """A namespace for pods, which goes before the driver does."""
    kubectl("create", "namespace", NAMESPACE)
    try:
        yield NAMESPACE
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s")


@pytest.fixture(scope="session")
def written(settings: Settings, driver: str) -> Iterator[str]:  # noqa: ARG001 (without a driver pods could not end)
    """Where pods may push to: in the workflow's own registry, which is rolled out."""
    assert get("namespace", "workflow") is None, (
        "the cluster has a namespace workflow already: this suite would delete it"
    )
    try:
        apply(
            manifests.workflow_example(settings, "Namespace", "PersistentVolumeClaim", "Deployment", "Service"),
        )
        roll_out("deployment/registry", "workflow")
        yield WRITTEN
    finally:
        kubectl("delete", "namespace", "workflow", "--ignore-not-found", "--timeout=180s")


@pytest.fixture(scope="session")
def artifact(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact of FILES in the registry, which the examples name."""
    reference = f"{settings.registry}/examples/model:v1"
    push(reference, tmp_path_factory.mktemp("artifact"))
    return reference


@pytest.fixture(scope="session")
def pods(settings: Settings, namespace: str, artifact: str) -> Iterator[dict[str, str]]:  # noqa: ARG001 (it is pulled)
    """A running pod for each example without a credential, by the example's name."""
    texts = {name: manifests.example(name, settings) for name in EXAMPLES}
    try:
        for text in texts.values():
            apply(text, namespace)
        running = {"inline": "oras-inline", "storageclass": "oras-claim", "static": "oras-static"}
        for pod in running.values():
            wait_ready(pod, namespace)
        yield running
    finally:
        for text in texts.values():
            delete(text, namespace)


def wait_for_mounter() -> None:
    """Wait until the mounter runs on each node; there is no rollout of what is replaced by hand."""

    def runs_everywhere() -> bool:
        found = get("daemonset", "csi-oras-mounter", namespace=SYSTEM)
        status = found["status"]
        is_seen = status.get("observedGeneration") == found["metadata"]["generation"]
        return bool(is_seen and 0 < status["desiredNumberScheduled"] == status.get("numberReady"))

    eventually(runs_everywhere, "the mounter runs on each node", seconds=SECONDS)


def write_files(directory: Path) -> None:
    """Write FILES."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def push(reference: str, directory: Path, *options: str, password: str = "") -> None:
    """Push FILES with the project's own command."""
    write_files(directory)
    push_directory(reference, directory, *sorted({name.split("/")[0] for name in FILES}), *options, password=password)


def push_directory(reference: str, directory: Path, *arguments: str, password: str = "") -> None:
    """Push what is in a directory with the project's own command, and the credential that the suite has."""
    config = os.environ.get("CSI_ORAS_E2E_REGISTRY_CONFIG")
    if config and not password:
        arguments += ("--registry-config", config)
    command = [sys.executable, "-m", "csi_oras", "push", reference, *arguments]
    state = ["--state-dir", str(directory.with_name(f"{directory.name}-state"))]
    subprocess.run([*command, *state], cwd=directory, input=password, text=True, check=True, timeout=120)
