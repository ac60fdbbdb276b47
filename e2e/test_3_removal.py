"""What is left when pods and driver are gone; the last of all, for it takes the driver away."""

import pytest

from e2e.cluster import delete, eventually, get, kubectl
from e2e.manifests import NAMESPACE, SYSTEM
from e2e.pods import registered_nodes

OURS = "app.kubernetes.io/part-of=csi-oras"
KINDS = "all,csidrivers,clusterroles,clusterrolebindings,roles,rolebindings,storageclasses,serviceaccounts,configmaps"

pytestmark = pytest.mark.timeout(600)


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
