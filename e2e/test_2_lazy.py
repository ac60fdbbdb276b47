"""Lazy volumes on a cluster: what pods read while all that serves them ends and begins again."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from e2e import manifests
from e2e.cluster import apply, delete, eventually, get, kubectl, roll_out, run_inside, wait_ready
from e2e.conftest import FILES, push_directory, wait_for_mounter
from e2e.manifests import NAMESPACE, SYSTEM, Settings
from e2e.pods import applied, contents, driver_pods, pods_of

PARTS = 900
PART_BYTES = 16 << 10
LARGE_BYTES = 64 << 20
READ = "cd /model; n={start}; while [ $n -lt {parts} ]; do md5sum part/$n; n=$((n + 1)); sleep 0.2; done; sleep 86400"
"""Reads one small file after the other, of which each is fetched when it is read, and says what it has read."""
OTHERS = "for p in /proc/[0-9]*; do p=${p#/proc/}; if [ $p != 1 ] && [ $p != $$ ]; then echo $p; fi; done"
"""Names the processes of a container but for its first and the shell that asks."""
ELSEWHERE = {"csi-oras-e2e": "nowhere"}

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("namespace")]


@pytest.fixture(scope="module")
def parts(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is in the registry under `large:v1`: the MD5 sum of each file."""
    directory = tmp_path_factory.mktemp("large")
    (directory / "part").mkdir()
    sizes = {"large.bin": LARGE_BYTES} | {f"part/{number}": PART_BYTES for number in range(PARTS)}
    for name, size in sizes.items():
        (directory / name).write_bytes(os.urandom(size))
    push_directory(f"{settings.registry}/examples/large:v1", directory, "large.bin", "part")
    return {name: md5(directory / name) for name in sizes}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def lazy_pod(name: str, settings: Settings, script: str) -> str:
    """Return a pod that is not root and runs a script beside a lazy volume of the parts."""
    reference = f"{settings.registry}/examples/large:v1"
    attributes = {"reference": reference, "mode": "lazy", "pullPolicy": "Always"}  # not what a run before this pushed
    document = yaml.safe_load(manifests.inline(name, attributes, settings))
    document["spec"]["containers"][0]["command"] = ["sh", "-c", script]
    return yaml.safe_dump(document)


def is_lazy(pod: str) -> bool:
    """Whether what the pod sees is a FUSE mount."""
    return "fuse.csi-oras" in run_inside(pod, "grep ' /model ' /proc/self/mountinfo", NAMESPACE)


def read_by(pod: str) -> list[str]:
    """Return the lines that the pod has written: sums and names, or what went wrong."""
    return kubectl("logs", pod, namespace=NAMESPACE).splitlines()


def fuse_processes() -> list[str]:
    """Return the processes of lazy volumes on all nodes."""
    return [process for pod in pods_of("mounter") for process in run_inside(pod, OTHERS, SYSTEM).split()]


def kill_processes() -> None:
    assert fuse_processes()
    for pod in pods_of("mounter"):
        run_inside(pod, f"kill -9 $({OTHERS}) 2>/dev/null; true", SYSTEM)


def restart_driver() -> None:
    old = set(driver_pods())
    kubectl("rollout", "restart", "daemonset/csi-oras-node", namespace=SYSTEM)
    roll_out("daemonset/csi-oras-node", SYSTEM)
    assert not old & set(driver_pods())


def delete_mounter() -> None:
    kubectl("delete", "pod", "--selector", "app.kubernetes.io/component=mounter", namespace=SYSTEM)
    wait_for_mounter()


def place_mounter(selector: dict[str, str | None]) -> None:
    """Have the mounter on nodes with these labels as well."""
    patch = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
    kubectl("patch", "daemonset", "csi-oras-mounter", "--patch", json.dumps(patch), namespace=SYSTEM)


@pytest.fixture
def no_mounter() -> Iterator[Callable[[], None]]:
    """Takes the mounter away, until the end of the test."""

    def take_away() -> None:
        place_mounter({**ELSEWHERE})
        eventually(lambda: not pods_of("mounter"), "the mounter is gone")

    try:
        yield take_away
    finally:
        place_mounter(dict.fromkeys(ELSEWHERE))
        wait_for_mounter()


@pytest.mark.usefixtures("artifact")
def test_example_when_read_in_the_pod_shows_the_artifact(settings: Settings) -> None:
    with applied(manifests.example("lazy", settings)):
        wait_ready("oras-lazy", NAMESPACE)
        assert contents("oras-lazy") == FILES


def test_large_file_when_read_in_part_is_right(settings: Settings, parts: dict[str, str]) -> None:
    with applied(lazy_pod("oras-large", settings, "sleep 86400")):
        wait_ready("oras-large", NAMESPACE)
        assert is_lazy("oras-large")
        assert run_inside("oras-large", "cd /model && stat -c %s large.bin && md5sum part/7 large.bin", NAMESPACE) == (
            f"{LARGE_BYTES}\n{parts['part/7']}  part/7\n{parts['large.bin']}  large.bin\n"
        )


@pytest.mark.parametrize(
    ("name", "start", "disturb"),
    [("processes", 0, kill_processes), ("driver", 300, restart_driver), ("mounter", 600, delete_mounter)],
    ids=["processes-killed", "driver-rolled", "mounter-deleted"],
)
def test_reader_when_who_serves_it_ends_waits_and_reads_on(
    settings: Settings, parts: dict[str, str], name: str, start: int, disturb: Callable[[], None]
) -> None:
    pod = f"oras-reads-{name}"
    with applied(lazy_pod(pod, settings, READ.format(start=start, parts=PARTS))):
        wait_ready(pod, NAMESPACE)
        assert is_lazy(pod)
        eventually(lambda: len(read_by(pod)) > 5, "it reads")
        disturb()
        before = len(read_by(pod))
        eventually(lambda: len(read_by(pod)) > before + 5, "it reads on")
        read = read_by(pod)
        assert is_lazy(pod)
    assert read == [f"{parts[f'part/{number}']}  part/{number}" for number in range(start, start + len(read))]


def test_process_when_its_last_pod_is_deleted_ends() -> None:
    eventually(lambda: not fuse_processes(), "no process of a lazy volume is left", seconds=30)


def test_volume_when_driver_and_mounter_are_gone_is_dead_and_goes_with_its_pod(
    settings: Settings, parts: dict[str, str], no_mounter: Callable[[], None]
) -> None:
    pod = lazy_pod("oras-dead", settings, READ.format(start=700, parts=PARTS))
    apply(pod, NAMESPACE)
    try:
        wait_ready("oras-dead", NAMESPACE)
        assert is_lazy("oras-dead")
        no_mounter()
        restart_driver()
        eventually(lambda: "not connected" in read_by("oras-dead")[-1], "reads fail")
    finally:
        delete(pod, NAMESPACE)
    # what is pulled meanwhile is pulled whole
    with applied(lazy_pod("oras-whole", settings, "sleep 86400")):
        wait_ready("oras-whole", NAMESPACE)
        assert not is_lazy("oras-whole")
        assert run_inside("oras-whole", "md5sum /model/part/899", NAMESPACE).split()[0] == parts["part/899"]


def test_mounter_when_it_has_served_was_never_restarted() -> None:
    found = get("pods", "--selector", "app.kubernetes.io/component=mounter", namespace=SYSTEM)["items"]
    assert [status["restartCount"] for pod in found for status in pod["status"]["containerStatuses"]] == [0] * len(
        found
    )
