"""What pods write, through a real driver: pushed to a real registry, and read by the next pod."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher, files
from tests.support.calls import refused
from tests.support.driver import Driver, pod_context
from tests.support.dying_driver import dying
from tests.support.outside import Outside, contents
from tests.support.pods import wait_for
from tests.support.private_registry import SECRET, private_registry

pytestmark = pytest.mark.needs("root", "registry")
_POLICY = "writeBack: {enabled: true, allow: [{namespaces: [default], references: ['**']}]}\n"


@pytest.fixture
def node(short_path: Path) -> Iterator[Driver]:
    policy = short_path / "policy.yaml"
    policy.write_text(_POLICY)
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


def _write(node: Driver, target: Path, namespace: str = "default", **options: object) -> None:
    node.publish(target, readonly=False, **pod_context(namespace=namespace), **options)  # type: ignore[arg-type]


def _read(node: Driver, reference: str, name: str = "reader") -> dict[str, bytes]:
    target = node.target(name, pod=name)
    node.publish(target, volume_id=name, reference=reference, pullPolicy="Always")
    found = contents(target)
    node.unpublish(target, volume_id=name)
    return found


def _waiting(node: Driver) -> list[Path]:
    return [path for path in (node.state / "outbox").iterdir() if not path.name.startswith(".")]


def test_what_a_pod_wrote_is_what_the_next_one_reads(node: Driver, pusher: Pusher, repository: str) -> None:
    base = pusher.artifact(
        repository, [*files(kept=b"kept", gone=b"gone", changed=b"before"), Layer(content=b"deep", title="a/b")]
    )
    out, target = f"{pusher.address}/{repository}/out:v1", node.target()
    _write(node, target, reference=base, writeBackReference=out, writeBackExclude="*.tmp")
    (target / "new").write_bytes(b"new")
    (target / "run").write_bytes(b"#!/bin/sh\n")
    (target / "run").chmod(0o755)
    (target / "changed").write_bytes(b"after")
    (target / "left.tmp").write_bytes(b"left")
    (target / "gone").unlink()
    node.unpublish(target)
    assert not target.exists()
    assert _waiting(node) == []  # the usual small result is there when the pod is gone
    written = {"kept": b"kept", "changed": b"after", "a/b": b"deep", "new": b"new", "run": b"#!/bin/sh\n"}
    assert _read(node, out) == written
    assert Outside(node.state).rows("leases") == []


def test_pod_that_is_not_root_writes_wherever_the_volume_has_a_directory(
    node: Driver, pusher: Pusher, repository: str
) -> None:
    base = pusher.artifact(repository, [Layer(content=name.encode(), title=name) for name in ("a/b/old", "a/c", "d/e")])
    out, target = f"{pusher.address}/{repository}/out:v1", node.target()
    _write(node, target, reference=base, writeBackReference=out)
    script = "echo new > a/b/new && rm a/c && echo again > a/c && mkdir d/f && echo deep > d/f/g"
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    subprocess.run(["nsenter", f"--wd={target}", *user, "sh", "-c", script], check=True)
    node.unpublish(target)
    assert _read(node, out) == {
        "a/b/old": b"a/b/old", "a/b/new": b"new\n", "a/c": b"again\n", "d/e": b"d/e", "d/f/g": b"deep\n"
    }  # fmt: skip


def test_three_steps_in_a_row_each_read_what_the_one_before_wrote(
    node: Driver, registry: Distribution, repository: str
) -> None:
    previous: dict[str, str] = {}
    for step in ("one", "two", "three"):
        out, target = f"{registry.address}/{repository}/{step}", node.target(step, pod=step)
        _write(node, target, volume_id=step, writeBackReference=out, **previous)
        (target / step).write_text(" ".join(sorted(os.listdir(target))))  # noqa: PTH208
        node.unpublish(target, volume_id=step)
        previous = {"reference": out}
    assert _read(node, previous["reference"]) == {"one": b"", "two": b"one", "three": b"one two"}


def test_volume_in_which_nothing_is_written_has_a_tag_too(
    node: Driver, registry: Distribution, repository: str
) -> None:
    out, target = f"{registry.address}/{repository}:v1", node.target()
    _write(node, target, writeBackReference=out)
    node.unpublish(target)
    assert _read(node, out) == {}


def test_credential_of_the_publish_pushes(node: Driver, short_path: Path) -> None:
    with private_registry(short_path / "private") as (registry, _):
        out, target = f"{registry.address}/team/out:v1", node.target()
        with refused(grpc.StatusCode.UNAUTHENTICATED, registry.address):
            _write(node, target, writeBackReference=out)
        assert not node.mounts()
        _write(node, target, secrets=SECRET, writeBackReference=out)
        (target / "x").write_bytes(b"mine")
        node.unpublish(target)
        again = node.target("again", pod="again")
        node.publish(again, volume_id="again", secrets=SECRET, reference=out)
        assert contents(again) == {"x": b"mine"}
        node.unpublish(again, volume_id="again")


def test_namespace_that_policy_does_not_name_is_refused(node: Driver, registry: Distribution, repository: str) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED, "namespace other", "writeBack.allow"):
        _write(node, node.target(), namespace="other", writeBackReference=f"{registry.address}/{repository}:v1")
    assert not node.mounts()


def test_registry_that_is_dead_keeps_no_pod_and_has_later_what_was_written(node: Driver, short_path: Path) -> None:
    with Distribution(short_path / "own") as registry:
        out, target = f"{registry.address}/out:v1", node.target()
        _write(node, target, writeBackReference=out)
        (target / "x").write_bytes(b"kept")
        registry.stop()
        node.unpublish(target, timeout=5)
        assert not target.exists()
        assert len(_waiting(node)) == 1
        node.kill()
        node.start()
        registry.start()
        wait_for(lambda: not _waiting(node))
        assert _read(node, out) == {"x": b"kept"}


def test_registry_that_is_dead_at_publish_is_told_before_anything_is_written(node: Driver, short_path: Path) -> None:
    with Distribution(short_path / "own") as registry:
        out, target = f"{registry.address}/out:v1", node.target()
        registry.stop()
        with refused(grpc.StatusCode.UNAVAILABLE, registry.address):
            _write(node, target, writeBackReference=out)
        assert not node.mounts()
        assert list((node.state / "volumes").iterdir()) == []


def test_several_writers_of_one_tag_end_with_every_result_kept(node: Driver, pusher: Pusher, repository: str) -> None:
    out, writers = f"{pusher.address}/{repository}:v1", [f"writer-{number}" for number in range(6)]
    targets = {name: node.target(name, pod=name) for name in writers}
    for name, target in targets.items():
        _write(node, target, volume_id=name, writeBackReference=out)
        (target / name).write_bytes(name.encode())
    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(lambda name: node.unpublish(targets[name], volume_id=name), writers))
    wait_for(lambda: _waiting(node) == [])  # whose first attempt was overtaken by five others may need another
    tags = json.loads(pusher.get(f"/v2/{repository}/tags/list")[1])["tags"]
    kept = [_read(node, f"{pusher.address}/{repository}:{tag}") for tag in tags]
    assert sorted(map(list, kept)) == [[name] for name in writers]
    assert "v1" in tags


@pytest.mark.parametrize("point", ["target made", "writable volume made", "mounted", "volume recorded"])
def test_publish_that_was_killed_goes_on(node: Driver, pusher: Pusher, repository: str, point: str) -> None:
    base, out = pusher.artifact(repository, files(x=b"below")), f"{pusher.address}/{repository}/out:v1"
    target = node.target()
    _restart(node, point)
    with pytest.raises(grpc.RpcError):
        _write(node, target, reference=base, writeBackReference=out)
    _died(node)
    _write(node, target, reference=base, writeBackReference=out)
    assert len(node.mounts()) == 1
    (target / "new").write_bytes(b"above")
    node.unpublish(target)
    assert _read(node, out) == {"x": b"below", "new": b"above"}
    _nothing_left(node)


@pytest.mark.parametrize("point", ["unmounted", "captured", "target removed", "record dropped"])
def test_unpublish_that_was_killed_goes_on(node: Driver, pusher: Pusher, repository: str, point: str) -> None:
    base, out = pusher.artifact(repository, files(x=b"below")), f"{pusher.address}/{repository}/out:v1"
    target = node.target()
    _restart(node, point)
    _write(node, target, reference=base, writeBackReference=out)
    (target / "new").write_bytes(b"above")
    with pytest.raises(grpc.RpcError):
        node.unpublish(target)
    _died(node)
    node.unpublish(target)
    wait_for(lambda: not _waiting(node))
    assert _read(node, out) == {"x": b"below", "new": b"above"}
    _nothing_left(node)


def test_volume_whose_pod_went_with_the_node_is_pushed_by_the_next_start(
    node: Driver, registry: Distribution, repository: str
) -> None:
    out, target = f"{registry.address}/{repository}:v1", node.target()
    _write(node, target, writeBackReference=out)
    (target / "x").write_bytes(b"kept")
    node.kill()
    subprocess.run(["umount", target], check=True)
    shutil.rmtree(target.parent)
    (node.state / "state.db").unlink()
    node.start()
    wait_for(lambda: not list((node.state / "volumes").iterdir()) and not _waiting(node))
    assert _read(node, out) == {"x": b"kept"}
    _nothing_left(node)


def _restart(node: Driver, point: str) -> None:
    node.stop()
    node.runner = dying(point)
    node.start()


def _died(node: Driver) -> None:
    assert node.process
    assert node.process.wait(30) == -signal.SIGKILL
    node.stop()
    node.runner = ()
    node.start()


def _nothing_left(node: Driver) -> None:
    outside = Outside(node.state)
    assert (outside.rows("leases"), outside.rows("volumes"), node.mounts()) == ([], [], [])
    assert list((node.state / "volumes").iterdir()) == []
    outside.check()
