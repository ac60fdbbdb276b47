"""The cluster that KUBECONFIG names, through kubectl, as an administrator has it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

KUBECTL = os.environ.get("KUBECTL", "kubectl")
SECONDS = 180
"""How long anything may take on a cluster: images are pulled in it."""


class KubectlError(AssertionError):
    """A command failed; what it said is the message."""


def kubectl(*arguments: str, text: str | None = None, namespace: str = "") -> str:
    """Run kubectl, with `text` as its standard input, and return what it prints.

    Raises:
        KubectlError: it failed.
    """
    command = [KUBECTL, *(["--namespace", namespace] if namespace else []), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS + 60, check=False)
    if done.returncode != 0:
        raise KubectlError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def get(*arguments: str, namespace: str = "") -> Any:
    """Return objects as `kubectl get --output json` prints them, None where there is none."""
    found = kubectl("get", *arguments, "--output", "json", "--ignore-not-found", namespace=namespace)
    return json.loads(found) if found else None


def apply(text: str, namespace: str = "") -> None:
    """Apply manifests, of which nothing may be misspelt."""
    kubectl("apply", "--validate=strict", "--filename", "-", text=text, namespace=namespace)


def delete(text: str, namespace: str = "") -> None:
    """Delete what manifests name, and wait until it is gone."""
    kubectl("delete", "--ignore-not-found", f"--timeout={SECONDS}s", "--filename", "-", text=text, namespace=namespace)


def roll_out(kind: str, namespace: str) -> None:
    """Wait until all pods of a workload are new and ready.

    Raises:
        KubectlError: they are not in time; with what is known of the pods.
    """
    try:
        kubectl("rollout", "status", kind, f"--timeout={SECONDS}s", namespace=namespace)
    except KubectlError as error:
        raise KubectlError(f"{error}\n{_pods_and_events(namespace)}") from error


def wait_ready(pod: str, namespace: str) -> None:
    """Wait until a pod runs.

    Raises:
        KubectlError: it does not in time; with what is known of it.
    """
    try:
        kubectl("wait", "--for=condition=Ready", f"pod/{pod}", f"--timeout={SECONDS}s", namespace=namespace)
    except KubectlError as error:
        raise KubectlError(f"{error}\n{_pods_and_events(namespace)}") from error


def _pods_and_events(namespace: str) -> str:
    pods = kubectl("get", "pods", "--output", "wide", namespace=namespace)
    return pods + kubectl("get", "events", "--sort-by", ".lastTimestamp", namespace=namespace)


def run_inside(pod: str, script: str, namespace: str, container: str = "") -> str:
    """Run a shell script in a container and return what it prints.

    Raises:
        KubectlError: it failed.
    """
    chosen = ["--container", container] if container else []
    return kubectl("exec", pod, *chosen, "--", "sh", "-c", script, namespace=namespace)


def eventually(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until `condition` holds.

    Raises:
        AssertionError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
