"""The workflow of deploy/daemonset/examples as it stands there, with a driver and a registry, without Kubernetes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from csi_oras.demo.distribution import Distribution
from tests.support.calls import refused
from tests.support.driver import Driver, pod_context
from tests.support.outside import contents
from tests.support.workflow import ADDRESS, HOSTS, POLICY, Step, steps

pytestmark = pytest.mark.needs("root", "registry")
FIRST, SECOND, THIRD = steps()


@pytest.fixture
def node(short_path: Path) -> Iterator[Driver]:
    hosts = short_path / "hosts" / ADDRESS
    hosts.mkdir(parents=True)
    policy = short_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({**POLICY, "registries": {"hostsDirs": [str(hosts.parent)]}}))
    with Distribution(short_path / "registry") as registry:  # its own, for the example's tags are the same each time
        (hosts / "hosts.toml").write_text(HOSTS.replace(ADDRESS, registry.address))
        with Driver(short_path, "--config", str(policy)) as running:
            yield running


def begin(node: Driver, step: Step) -> Path:
    """Publish the volume of a step as the kubelet would."""
    target = node.target(step.name, pod=step.name)
    context: dict[str, Any] = {**pod_context(step.name, step.namespace), **step.attributes}
    node.publish(target, volume_id=step.name, readonly=step.is_read_only, **context)
    return target


def run(node: Driver, step: Step) -> str:
    """Run a step's own command in its volume, and return what it says."""
    target = begin(node, step)
    done = subprocess.run(step.command, cwd=target, capture_output=True, text=True, check=False, timeout=60)
    node.unpublish(target, volume_id=step.name)
    return done.stdout if done.returncode == 0 else f"failed with {done.returncode}"


def test_each_step_begins_with_what_the_one_before_wrote(node: Driver) -> None:
    assert [run(node, step) for step in (FIRST, SECOND, THIRD)] == ["", "", "500500\n"]
    assert sorted(contents(begin(node, THIRD))) == ["numbers.txt", "sum.txt"]


def test_step_waits_for_an_artifact_that_is_not_there_yet(node: Driver) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, SECOND.attributes["reference"]):
        begin(node, SECOND)
    run(node, FIRST)
    assert run(node, SECOND) == ""


def test_step_after_a_failed_one_fails_until_it_has_succeeded(node: Driver) -> None:
    node.unpublish(begin(node, FIRST), volume_id=FIRST.name)  # it died before it had written anything
    assert run(node, SECOND) == "failed with 1"
    assert [run(node, step) for step in (FIRST, SECOND, THIRD)] == ["", "", "500500\n"]
