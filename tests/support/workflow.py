"""The workflow of deploy/daemonset/examples: what its manifests and its README say."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "daemonset" / "examples" / "workflow"
ADDRESS = "registry.workflow.svc.cluster.local:5000"
HOSTS = (DIRECTORY / "hosts.toml").read_text()
README = (DIRECTORY / "README.md").read_text()
OBJECTS = [
    found
    for name in yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())["resources"]
    for found in yaml.safe_load_all((DIRECTORY / name).read_text())
]
(POLICY_TEXT,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
POLICY: dict[str, Any] = yaml.safe_load(POLICY_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One Job: its command, and the volume that the command runs in."""

    name: str
    namespace: str
    command: list[str]
    attributes: dict[str, str]
    is_read_only: bool
    driver: str


def steps() -> list[Step]:
    """Return the steps in their order."""
    return [_step(found) for found in OBJECTS if found["kind"] == "Job"]


def _step(job: dict[str, Any]) -> Step:
    pod = job["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], container["workingDir"])
    return Step(
        name=job["metadata"]["name"],
        namespace=job["metadata"]["namespace"],
        command=container["command"],
        attributes=volume["csi"]["volumeAttributes"],
        is_read_only=volume["csi"].get("readOnly", False),
        driver=volume["csi"]["driver"],
    )
