"""Lazy volumes beside eager ones of the same artifacts: the same names, modes and bytes, for each kind that is files.

And nodes on which nothing can be lazy: there, and for what has to be unpacked, the volume is pulled whole.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.artifacts import DOCKER_MANIFEST, Layer, Pusher
from tests.support.doctoring import doctor
from tests.support.driver import Driver
from tests.support.kinds import push, shown
from tests.support.kinds_archives import oras_directory
from tests.support.lazy_node import LazyNode
from tests.support.tars import tar

pytestmark = [pytest.mark.needs("root", "registry", "fuse"), pytest.mark.timeout(120)]
LARGE = os.urandom((2 << 20) + 7)
"""Each artifact has it with an end of its own: what is here is not lazy any more."""
_FLAGS = (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC)
_HIDDEN = """
mount -t tmpfs tmpfs /dev
for device in "null 1 3" "zero 1 5" "random 1 8" "urandom 1 9"; do
  set -- $device "$@"; mknod /dev/$1 c $2 $3; chmod 666 /dev/$1; shift 3
done
exec "$@"
"""
_FORBIDDEN = """
mount -t tmpfs -o nodev tmpfs /mnt
mknod /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
exec "$@"
"""
_NULL = 'mount --bind /dev/null /dev/fuse; exec "$@"'
_REGULAR = 'mount -t tmpfs tmpfs /mnt; touch /mnt/fuse; mount --bind /mnt/fuse /dev/fuse; exec "$@"'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LazyNode]:
    with LazyNode(tmp_path_factory.mktemp("n")) as running:
        yield running
        running.check_nothing_is_left()


def generic(pusher: Pusher, repository: str) -> str:
    names = ("large", "deep/er/small", "a b", "ünï", "a", "a.b")
    large = LARGE + repository.encode()
    contents = (large, b"small" + repository.encode(), b"space", b"code", b"", b"dot")
    layers = [Layer(content=content, title=name) for name, content in zip(names, contents, strict=True)]
    return pusher.artifact(repository, [*layers, Layer(content=large, title="same")])


def modelpack(pusher: Pusher, repository: str) -> str:
    prefix = "application/vnd.cncf.model."
    mode = {"org.cncf.model.file.metadata+json": '{"mode": 493, "name": "run", "size": 9}'}
    layers = [
        Layer(
            content=content,
            media_type=f"{prefix}{kind}.v1.raw",
            annotations={"org.cncf.model.filepath": path, **(mode if path == "run" else {})},
        )
        for kind, path, content in (
            ("weight", "weights/model.safetensors", LARGE + repository.encode()),
            ("weight.config", "config.json", b"{}x"),
            ("code", "run", b"#!/bin/sh"),
        )
    ]
    document = b'{"descriptor": {}, "modelfs": {"type": "layers", "diffIds": []}, "config": {}}'
    config = Layer(content=document, media_type=f"{prefix}config.v1+json")
    return push(pusher, repository, layers, config, artifactType=f"{prefix}manifest.v1+json")


def ollama(pusher: Pusher, repository: str) -> str:
    prefix = "application/vnd.ollama.image."
    layers = [
        Layer(content=LARGE + repository.encode(), media_type=f"{prefix}model"),
        Layer(content=b"{{ .Prompt }}", media_type=f"{prefix}template"),
        Layer(content=b'{"stop": []}', media_type=f"{prefix}params"),
    ]
    config = Layer(content=b'{"model_format": "gguf"}', media_type="application/vnd.docker.container.image.v1+json")
    return push(pusher, repository, layers, config, media_type=DOCKER_MANIFEST)


def sif(pusher: Pusher, repository: str) -> str:
    config = Layer(content=b"{}", media_type="application/vnd.sylabs.sif.config.v1+json")
    layer = Layer(
        content=b"#!/usr/bin/env run\n" + LARGE + repository.encode(),
        media_type="application/vnd.sylabs.sif.layer.v1.sif",
    )
    return push(pusher, f"{repository}/alpine", [layer], config, tag="3.21")


ARTIFACTS: dict[str, tuple[Callable[[Pusher, str], str], dict[str, str]]] = {
    "generic": (generic, {}),
    "ModelPack": (modelpack, {}),
    "Ollama": (ollama, {}),
    "SIF": (sif, {}),
    "one file": (generic, {"path": "large"}),
    "one directory": (generic, {"path": "deep"}),
    "metadata": (generic, {"metadata": "true"}),
    "noexec": (modelpack, {"noexec": "true"}),
    "selected": (generic, {"include": "**", "exclude": "a*"}),
}


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_lazy_volume_shows_what_an_eager_one_does(node: LazyNode, pusher: Pusher, repository: str, kind: str) -> None:
    make, attributes = ARTIFACTS[kind]
    reference = make(pusher, repository)
    lazy, eager = node.show(reference, **attributes), node.target(f"eager-{kind.replace(' ', '-')}")
    assert str(lazy) in [one.target for one in node.connections()]
    node.show(reference, eager.parent.name, mode="eager", **attributes)
    assert shown(lazy) == shown(eager)
    assert subprocess.run(["diff", "-r", lazy, eager], check=False, capture_output=True).stdout == b""
    options = {target: [os.statvfs(target).f_flag & bit for bit in _FLAGS] for target in (lazy, eager)}
    assert options[lazy] == options[eager]
    node.hide(lazy, eager)


def test_what_has_to_be_unpacked_is_pulled_whole(node: LazyNode, pusher: Pusher, repository: str) -> None:
    layer = oras_directory("packed", tar([{"name": "packed/x", "content": "member"}]))
    target = node.show(pusher.artifact(repository, [layer, Layer(content=LARGE, title="large")]))
    assert str(target) not in [one.target for one in node.connections()]
    assert (target / "packed/x").read_bytes() == b"member"
    node.hide(target)


@pytest.mark.parametrize(
    "script", [_HIDDEN, _FORBIDDEN, _NULL, _REGULAR], ids=["missing", "forbidden", "something else", "a file"]
)
def test_volume_is_pulled_whole_where_the_device_cannot_be_used(
    short_path: Path, pusher: Pusher, repository: str, script: str
) -> None:
    runner = ("unshare", "--mount", "sh", "-euc", script, "sh")
    with Driver(short_path, runner=runner) as driver:
        target = driver.target()
        driver.publish(target, reference=generic(pusher, repository), mode="lazy")
        assert driver.process
        seen = Path(f"/proc/{driver.process.pid}/root{target}")  # mounted where only the driver sees it
        assert (seen / "large").read_bytes() == LARGE + repository.encode()
        mounts = Path(f"/proc/{driver.process.pid}/mounts").read_text().splitlines()
        assert not [line for line in mounts if str(target) in line and "fuse" in line]
        line = next(line for line in driver.log.splitlines() if "/dev/fuse" in line)
        assert "pulled whole" in line
        assert not driver.mounter()
        said = doctor("--state-dir", driver.state, "--kubelet-dir", driver.kubelet, prefix=runner).stdout
        assert "/dev/fuse cannot be used" in next(
            line for line in said.splitlines() if line.startswith("warning  fuse")
        )
        driver.unpublish(target)
