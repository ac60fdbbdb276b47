"""What pods see of their volumes, and what is said to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e import manifests
from e2e.cluster import apply, delete, get, kubectl, run_inside, wait_ready
from e2e.manifests import NAMESPACE, SYSTEM, Settings

DRIVER = "csi.oras.land"


def contents(pod: str) -> dict[str, str]:
    """Read every file of a pod's volume from inside the pod."""
    names = run_inside(pod, "cd /model && find . -type f", NAMESPACE).split()
    return {name.removeprefix("./"): run_inside(pod, f"cat /model/{name}", NAMESPACE) for name in names}


def driver_pods() -> list[str]:
    """Return the pods of the DaemonSet."""
    return pods_of("node")


def pods_of(component: str) -> list[str]:
    """Return the pods of the driver, on nodes or as controller, or of the mounter."""
    found = get("pods", "--selector", f"app.kubernetes.io/component={component}", namespace=SYSTEM)
    return [pod["metadata"]["name"] for pod in found["items"]] if found else []


def told(pod: str, sentence: str) -> bool:
    """Whether an event of a pod says why its volume is not there."""
    return any(sentence in event["message"] for event in _events(pod, "FailedMount"))


def described(pod: str) -> list[str]:
    """Return the driver's own lines among the events that `kubectl describe` shows of a pod."""
    text = kubectl("describe", "pod", pod, namespace=NAMESPACE)
    return [" ".join(line.split()) for line in text.splitlines() if f" {DRIVER} " in line]


def said(pod: str, reason: str) -> str:
    """Return what the driver's last event of this kind says to a pod, nothing if there is none."""
    ours = [event for event in _events(pod, reason) if event["source"]["component"] == DRIVER]
    return str(max(ours, key=lambda event: event["lastTimestamp"])["message"]) if ours else ""


def _events(pod: str, reason: str) -> list[Any]:
    of_pod = f"involvedObject.name={pod},reason={reason}"
    found = get("events", "--field-selector", of_pod, namespace=NAMESPACE)
    return list(found["items"]) if found else []


@contextmanager
def applied(text: str) -> Iterator[None]:
    """Have what manifests name for a while."""
    apply(text, NAMESPACE)
    try:
        yield
    finally:
        delete(text, NAMESPACE)


@contextmanager
def running(pod: str, settings: Settings, reference: str, **attributes: str) -> Iterator[None]:
    """Have a pod run with a volume of what the registry has for `reference` now."""
    with applied(manifests.inline(pod, {"reference": reference, "pullPolicy": "Always", **attributes}, settings)):
        wait_ready(pod, NAMESPACE)
        yield


def registered_nodes() -> set[str]:
    """Return the nodes whose kubelets know the driver."""
    nodes = get("csinodes")["items"]
    return {
        node["metadata"]["name"]
        for node in nodes
        if any(driver["name"] == DRIVER for driver in node["spec"]["drivers"] or [])
    }
