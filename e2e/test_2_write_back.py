"""What pods write is in the registry when they are done: as a workflow, by every kind of volume, and whatever fails."""

import json
import re
from collections.abc import Iterator, Mapping

import pytest

from e2e import manifests
from e2e.cluster import apply, delete, eventually, get, kubectl, roll_out, run_inside, wait_ready
from e2e.conftest import FILES
from e2e.manifests import NAMESPACE, SYSTEM, Settings
from e2e.pods import DRIVER, applied, contents, driver_pods, running, said, told

CLASS = "csi-oras-e2e-written"
COUNT = "n=0; while sleep 0.1; do n=$((n + 1)); echo $n >> counted; done"
"""Writes a number to a line until the pod is deleted."""

pytestmark = pytest.mark.timeout(600)


def inline(**attributes: str) -> dict[str, object]:
    """Return an inline volume with these attributes."""
    return {"csi": {"driver": DRIVER, "volumeAttributes": attributes}}


def ended(pod: str, phase: str = "Succeeded") -> None:
    """Wait until a pod's command has ended.

    Raises:
        KubectlError: it does not in time, or not so.
    """
    kubectl("wait", f"--for=jsonpath={{.status.phase}}={phase}", f"pod/{pod}", "--timeout=120s", namespace=NAMESPACE)


def pushed(pod: str, reason: str = "Pushed") -> str:
    """Wait until a pod is told what became of what it wrote, and return the reference, which ends the sentence."""
    eventually(lambda: said(pod, reason), f"an event {reason} of {pod}", seconds=150)
    return re.sub(r"@sha256:[0-9a-f]{64}$", "", said(pod, reason).split()[-1])


def read(settings: Settings, reference: str) -> dict[str, str]:
    """Return what another pod sees of an artifact."""
    with running("oras-reader", settings, reference):
        return contents("oras-reader")


def waiting(pod: str) -> list[str]:
    """Return the entries that a pod has in the nodes' outboxes."""
    listed = [json.loads(outbox(node, "ls", "--json")) for node in driver_pods()]
    return [entry["id"] for entries in listed for entry in entries if entry["pod"] == pod]


def counted(pod: str) -> int:
    """Return the last number that a pod with COUNT has written."""
    return int(run_inside(pod, "tail -n 1 /model/counted", NAMESPACE))


def outbox(node: str, *arguments: str) -> str:
    """Run the command in a node's driver."""
    return kubectl("exec", node, "--container", "csi-oras", "--", "csi-oras", "outbox", *arguments, namespace=SYSTEM)


def scale_registry(replicas: int) -> None:
    """Have the registry there or not."""
    kubectl("scale", "deployment/registry", f"--replicas={replicas}", namespace="workflow")
    roll_out("deployment/registry", "workflow")


@pytest.fixture
def claim(written: str, request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """A volume of a claim with the access mode that is the parameter."""
    mode = request.param
    kept = {"spec": {"accessModes": [mode], "storageClassName": CLASS, "resources": {"requests": {"storage": "1Mi"}}}}
    reference = f"{written}/${{pvc.metadata.name}}:v1"
    objects = [
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": CLASS}}
        | {"provisioner": DRIVER, "parameters": {"writeBackReference": reference}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": mode.lower()}} | kept,
    ]
    with applied("\n---\n".join(json.dumps(found) for found in objects)):
        yield {"persistentVolumeClaim": {"claimName": mode.lower()}}


@pytest.mark.usefixtures("written")
def test_workflow_when_its_steps_are_applied_at_once_ends_with_their_sum(settings: Settings) -> None:
    apply(manifests.workflow_example(settings, "Job"))
    kubectl("wait", "--for=condition=complete", "--timeout=240s", "job/third-run-1", namespace="workflow")
    assert kubectl("logs", "job/third-run-1", namespace="workflow") == "500500\n"


@pytest.mark.usefixtures("namespace")
def test_inline_volume_when_its_pod_is_done_is_what_the_pod_wrote(settings: Settings, written: str) -> None:
    script = "mkdir -p a/b; echo 1 > a/b/c; echo 2 > d; ln -s d e"
    reference = f"{written}/inline:oras-writer"
    volume = inline(writeBackReference=f"{written}/inline:${{pod.metadata.name}}")
    with applied(manifests.writer("oras-writer", script, volume, settings)):
        assert pushed("oras-writer") == reference
    with running("oras-reader", settings, reference):
        assert contents("oras-reader") == {"a/b/c": "1\n", "d": "2\n"}
        assert run_inside("oras-reader", "readlink /model/e", NAMESPACE) == "d\n"


@pytest.mark.usefixtures("namespace")
def test_artifact_below_when_it_was_changed_stays_and_is_pushed_with_the_changes(
    settings: Settings, written: str, artifact: str
) -> None:
    script = "rm README.md; echo 2 > weights/new; echo {} > config.new; mv config.new config.json"
    volume = inline(reference=artifact, writeBackReference=f"{written}/changed:v1")
    with applied(manifests.writer("oras-changer", script, volume, settings)):
        reference = pushed("oras-changer")
    kept = {"weights/layer-0.bin": FILES["weights/layer-0.bin"]}
    assert read(settings, reference) == {**kept, "weights/new": "2\n", "config.json": "{}\n"}
    assert read(settings, artifact) == FILES


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("claim", ["ReadWriteOncePod", "ReadWriteOnce"], indirect=True)
def test_claim_when_its_pod_is_deleted_is_pushed_and_then_goes(
    settings: Settings, written: str, claim: Mapping[str, dict[str, str]]
) -> None:
    name = claim["persistentVolumeClaim"]["claimName"]
    pod = manifests.writer(f"oras-{name}", "echo 1 > a; exec sleep 86400", claim, settings)
    with applied(pod):
        wait_ready(f"oras-{name}", NAMESPACE)
    assert pushed(f"oras-{name}") == f"{written}/{name}:v1"
    assert read(settings, f"{written}/{name}:v1") == {"a": "1\n"}
    volume = get("persistentvolumeclaim", name, namespace=NAMESPACE)["spec"]["volumeName"]
    kubectl("delete", "persistentvolumeclaim", name, namespace=NAMESPACE)
    eventually(lambda: get("persistentvolume", volume) is None, f"PersistentVolume {volume} deleted with its claim")


@pytest.mark.usefixtures("namespace")
def test_static_volume_when_its_pod_is_done_is_pushed(settings: Settings, written: str, artifact: str) -> None:
    text = manifests.example("static", settings).replace("ReadOnlyMany", "ReadWriteOnce").replace("readOnly: true", "")
    volumes, claims, _ = text.replace("oras-static", "oras-e2e-written").split("\n---\n")
    volumes = volumes.replace("path: weights", f"writeBackReference: {written}/static:v1")
    pod = manifests.writer("oras-stays", "echo 1 > a", {"persistentVolumeClaim": {"claimName": "static"}}, settings)
    with applied(f"{volumes}\n---\n{claims}"), applied(pod):
        assert read(settings, pushed("oras-stays")) == {**FILES, "a": "1\n"}
    assert artifact


@pytest.mark.usefixtures("namespace")
def test_tag_when_two_pods_write_it_at_once_is_the_first_ones_and_the_second_is_told(
    settings: Settings, written: str
) -> None:
    volume = inline(writeBackReference=f"{written}/raced:v1")
    for name in ("one", "two"):
        apply(manifests.writer(f"oras-{name}", f"echo {name} > a; exec sleep 86400", volume, settings), NAMESPACE)
    for name in ("one", "two"):
        wait_ready(f"oras-{name}", NAMESPACE)
    for name in ("one", "two"):
        kubectl("delete", "pod", f"oras-{name}", namespace=NAMESPACE)
    assert pushed("oras-one") == f"{written}/raced:v1"
    second = pushed("oras-two", "TagMoved")
    assert re.fullmatch(re.escape(f"{written}/raced:v1-") + "[0-9a-f]{12}", second)
    assert read(settings, f"{written}/raced:v1") == {"a": "one\n"}
    assert read(settings, second) == {"a": "two\n"}


@pytest.mark.usefixtures("namespace")
def test_what_no_artifact_carries_when_it_was_written_stays_on_the_node_until_it_is_dropped(
    settings: Settings, written: str
) -> None:
    volume = inline(writeBackReference=f"{written}/fifo:v1")
    with applied(manifests.writer("oras-fifo", "mkfifo pipe; echo 1 > a", volume, settings)):
        eventually(lambda: '"pipe" is a FIFO' in said("oras-fifo", "PushFailed"), "an event that names the file")
    entry = said("oras-fifo", "PushFailed").partition(" stays on the node as ")[2].partition(",")[0]
    assert entry in waiting("oras-fifo")
    for node in driver_pods():
        if entry in outbox(node, "ls", "--json"):
            outbox(node, "drop", entry, "--yes")
    assert entry not in waiting("oras-fifo")


@pytest.mark.usefixtures("namespace")
def test_place_where_policy_lets_nobody_push_when_asked_for_is_said_before_the_pod_begins(
    settings: Settings, written: str
) -> None:
    elsewhere = written.replace("/written", "/workflow")
    volume = inline(writeBackReference=f"{elsewhere}/x:v1")
    with applied(manifests.writer("oras-refused", "true", volume, settings)):
        sentence = f"node policy does not let namespace {NAMESPACE} push there"
        eventually(lambda: told("oras-refused", sentence), "an event that names the namespace")


@pytest.mark.usefixtures("namespace")
def test_pod_when_its_command_fails_leaves_what_it_wrote(settings: Settings, written: str) -> None:
    volume = inline(writeBackReference=f"{written}/failed:v1")
    with applied(manifests.writer("oras-failed", "echo 1 > a; exit 3", volume, settings)):
        ended("oras-failed", "Failed")
        assert read(settings, pushed("oras-failed")) == {"a": "1\n"}


@pytest.mark.usefixtures("namespace")
def test_driver_when_restarted_under_a_pod_that_writes_loses_nothing(settings: Settings, written: str) -> None:
    volume = inline(writeBackReference=f"{written}/counted:v1")
    with applied(manifests.writer("oras-counter", COUNT, volume, settings)):
        wait_ready("oras-counter", NAMESPACE)
        kubectl("rollout", "restart", "daemonset/csi-oras-node", namespace=SYSTEM)
        roll_out("daemonset/csi-oras-node", SYSTEM)
        before = counted("oras-counter")
        eventually(lambda: counted("oras-counter") > before, "it goes on writing")
    numbers = read(settings, pushed("oras-counter"))["counted"].split()
    assert numbers == [str(number + 1) for number in range(len(numbers))]
    assert len(numbers) > before


@pytest.mark.usefixtures("namespace")
def test_registry_when_it_is_away_keeps_no_pod_and_has_what_was_written_when_it_is_back(
    settings: Settings, written: str
) -> None:
    volume = inline(writeBackReference=f"{written}/later:v1")
    pod = manifests.writer("oras-patient", "echo 1 > a; exec sleep 86400", volume, settings)
    apply(pod, NAMESPACE)
    wait_ready("oras-patient", NAMESPACE)
    scale_registry(0)
    try:
        delete(pod, NAMESPACE)
        assert len(waiting("oras-patient")) == 1
    finally:
        scale_registry(1)
    for node in driver_pods():
        outbox(node, "retry")
    assert read(settings, pushed("oras-patient")) == {"a": "1\n"}
    assert waiting("oras-patient") == []
