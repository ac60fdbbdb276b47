"""What pods write is read back as they left it: by `oras`, oras-py and our own volumes, against the pod's own view."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import DOCKER_MANIFEST, TITLE, Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.driver import Driver, pod_context
from tests.support.interop import Client, Oras, OrasPy, Place
from tests.support.kinds import Shown, as_volume, manifest_of, plant, plant_links, push, shown, tar
from tests.support.kinds_archives import DIRECTORY, PACKERS, oras_directory, pack

pytestmark = pytest.mark.needs("root", "registry")

Tree = dict[str, Shown]
Change = Callable[[Path], None]
_POLICY = "writeBack: {enabled: true, allow: [{namespaces: [default], references: ['**']}]}\n"
_LARGE = 17 << 20
_OLLAMA, _MODELPACK = "application/vnd.ollama.image.", "application/vnd.cncf.model."
_PATH = "org.cncf.model.filepath"
UNPACK = "io.deis.oras.content.unpack"
_pods = count(1)
CLIENTS = [
    pytest.param(OrasPy, id="oras-py"),
    pytest.param(Oras, id="oras", marks=pytest.mark.peer("oras")),
]


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a pod saw at its end: as it is, and as a volume shows it."""

    as_it_is: Tree
    as_volume: Tree


@pytest.fixture(scope="module")
def node() -> Iterator[Driver]:
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    (directory / "policy.yaml").write_text(_POLICY)
    with Driver(directory, "--config", str(directory / "policy.yaml")) as running:
        yield running
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def out(pusher: Pusher, repository: str) -> str:
    """Where to push."""
    return f"{pusher.address}/{repository}/out:v1"


def written(node: Driver, out: str, change: Change, **attributes: Any) -> Left:
    """Have a pod write, until the registry has it."""
    pod = f"writer-{next(_pods)}"
    target = node.target(pod, pod=pod)
    wanted: dict[str, Any] = {**pod_context(name=pod), **attributes, "writeBackReference": out}
    node.publish(target, volume_id=pod, readonly=False, **wanted)
    change(target)
    left = Left(as_it_is=shown(target), as_volume=as_volume(target))
    node.unpublish(target, volume_id=pod)
    waiting = [path.parent for path in (node.state / "outbox").glob("[!.]*/volume.json") if pod in path.read_text()]
    assert not waiting, [(path / "state.json").read_text() for path in waiting]
    return left


def mounted(node: Driver, reference: str) -> Tree:
    """Return what a volume of another pod shows."""
    pod = f"reader-{next(_pods)}"
    target = node.target(pod, pod=pod)
    node.publish(target, volume_id=pod, reference=reference, pullPolicy="Always")
    found = shown(target)
    node.unpublish(target, volume_id=pod)
    return found


def pulled(client: type[Client], reference: str, directory: Path) -> Tree:
    """Return what somebody else's program makes of it."""
    running = client(Place(address=reference.partition("/")[0], directory=directory / "place"), directory / "client")
    running.pull(reference)
    return shown(running.out)


def document(reference: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest_of(reference)[0])
    return found


def layers(reference: str) -> dict[str, str]:
    """Return the digests of layers by their titles."""
    return {layer["annotations"][TITLE]: layer["digest"] for layer in document(reference)["layers"]}


def without_modes(tree: Tree) -> Tree:
    return {name: replace(found, mode=0) for name, found in tree.items()}


def everything(root: Path) -> None:
    """Write whatever a volume can carry."""
    for name, mode in (
        ("plain", 0o644), ("run.sh", 0o755), ("private", 0o600), ("set", 0o4755), ("group", 0o710), ("read", 0o400),
        ("nested/deep/er/file", 0o644), ("with space/a b", 0o644), ("with space/ run ", 0o755),
        ("ünï/cödé ✓ 模型", 0o644), ("odd/%41&b#c?d=e+f", 0o644), ("odd/quo\"te's", 0o644), ("odd/-dash", 0o644),
        ("archive.tar.gz", 0o644), ("dir.tar.gz/x", 0o644), ("packed/file", 0o640), ("packed/run", 0o700),
        ("packed/deep/%2e~", 0o444), ("packed/ünï cödé", 0o644), ("packed/" + 120 * "n", 0o644),
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(mode)
    for name in ("large", "packed/large"):
        (root / name).write_bytes(bytes(range(256)) * (_LARGE // 256))
    for name in ("empty", "nested/empty", "packed/empty"):
        (root / name).touch()
    for name in ("nothing", "nowhere/in/it", "packed/nothing"):
        (root / name).mkdir(parents=True)
    for name, target in (
        ("packed/link", "file"), ("packed/up", "deep/../run"), ("packed/to", "deep"), ("packed/dangling", "none"),
        ("packed/slashes", ".//deep/./"), ("packed/deep/here", "."),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    (root / "hard").hardlink_to(root / "plain")


def links_of_the_root(root: Path) -> None:
    """Write links that belong to no directory, or lead out of theirs."""
    (root / "d").mkdir()
    for name in ("plain", "d/file"):
        (root / name).write_bytes(b"x")
    for name, target in (("link", "plain"), ("across", "d/file"), ("d/up", "../plain"), ("d/root", "..")):
        (root / name).symlink_to(target)


@pytest.mark.parametrize("change", [everything, links_of_the_root, lambda _: None], ids=["all", "links", "nothing"])
def test_what_a_pod_wrote_is_what_the_next_pod_sees(node: Driver, out: str, change: Change) -> None:
    left = written(node, out, change)
    assert mounted(node, out) == left.as_volume


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_pod_wrote_is_what_others_pull(node: Driver, out: str, tmp_path: Path, client: type[Client]) -> None:
    left = written(node, out, everything)
    found = pulled(client, out, tmp_path)
    assert without_modes(found) == without_modes(left.as_it_is)
    packed = {layer["annotations"][TITLE] for layer in document(out)["layers"] if UNPACK in layer["annotations"]}
    programs = {name for name, one in left.as_volume.items() if one.kind == "file" and one.mode & 0o111}
    carried = {name for name in programs if name.partition("/")[0] in packed}  # of a file alone, no tool has a mode
    assert {name for name, one in found.items() if one.kind == "file" and one.mode & 0o111} == carried
    assert carried != programs


@pytest.mark.peer("oras")
def test_links_of_the_root_are_pulled_by_oras(node: Driver, out: str, tmp_path: Path) -> None:
    left = written(node, out, links_of_the_root)
    assert without_modes(pulled(Oras, out, tmp_path)) == without_modes(left.as_it_is)


def test_links_of_the_root_are_put_beside_by_oras_py(node: Driver, out: str, tmp_path: Path) -> None:
    """As with whatever `oras push .` has packed: oras-py unpacks an archive for the root in the directory above."""
    left = written(node, out, links_of_the_root).as_it_is
    links = {name for name, found in left.items() if found.kind == "link"}
    assert without_modes(pulled(OrasPy, out, tmp_path)) == without_modes(
        {name: found for name, found in left.items() if name not in links}
    )
    beside = shown(tmp_path / "client")
    assert {name: beside[name] for name in links} == {name: left[name] for name in links}


def many(root: Path) -> None:
    """Write more files than there may be layers."""
    for number in range(1_010):
        (root / f"many/{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"many/{number % 3}/{number}").write_text(str(number))
    (root / "one").write_bytes(b"1")


def pushed(directory: Path, reference: str, *names: str) -> None:
    """Push what is in a directory by the command."""
    command = [sys.executable, "-m", "csi_oras", "push", reference, *names, "--state-dir", str(directory / "../state")]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize("change", [everything, links_of_the_root, many, lambda _: None])
def test_directory_that_a_command_pushes_is_the_layers_of_a_pod_that_wrote_it(
    node: Driver, out: str, tmp_path: Path, change: Change
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    change(files)
    written(node, out, change)
    of_all, of_each = (out.replace("/out:", f"/{name}:") for name in ("all", "each"))
    pushed(files, of_all, ".")
    assert document(of_all)["layers"] == document(out)["layers"]
    assert mounted(node, of_all) == mounted(node, out)
    if names := sorted(path.name for path in files.iterdir() if not path.is_symlink()):
        pushed(files, of_each, *names)
        links = {name for name, found in shown(files).items() if found.kind == "link" and "/" not in name}
        assert mounted(node, of_each) == {
            name: found for name, found in mounted(node, out).items() if name not in links
        }


@pytest.mark.parametrize("client", CLIENTS)
def test_directory_that_a_command_pushes_is_what_others_pull(out: str, tmp_path: Path, client: type[Client]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    everything(files)
    pushed(files, out, ".")
    assert without_modes(pulled(client, out, tmp_path)) == without_modes(shown(files))


# -- over a base


def ended_as_go_does(archive: bytes) -> bytes:
    """Leave of the zeros at the end of an archive two blocks: oras hashes no more before it compares digests."""
    end = len(archive.rstrip(b"\0"))
    return archive[: end + -end % 512] + bytes(1024)


@pytest.fixture
def base(pusher: Pusher, repository: str, tmp_path: Path) -> str:
    """An artifact with a file for each change, and two packed directories."""
    planted = [plant_links(plant(tmp_path / name, name)) for name in ("one", "two")]
    for directory in planted:
        (directory / "data/same.bin").unlink()  # oras follows a hard link to another place than tar does
    one, two = (ended_as_go_does(tar(directory, directory.name)) for directory in planted)
    titled = {"d/x": b"x", "d/y": b"y", "e/f/z": b"z", "e/run": b"#!", "kept/in/place": b"kept", "only/file": b"only"}
    ours = [Layer(content=content, title=title) for title, content in titled.items()]
    program = Layer(content=b"#!/bin/sh", title="run", annotations={"land.oras.csi.mode": "0755"})
    packed = [oras_directory("one", one), oras_directory("two", two)]
    return pusher.artifact(
        f"{repository}/base", [*files(a=b"1", b=b"2", c=b"3", t=b"4"), *ours, program, *packed], artifactType="a/b"
    )


def rework(root: Path) -> None:
    """Change something of every kind."""
    (root / "a").write_bytes(b"changed")
    (root / "b").unlink()
    (root / "b").mkdir()
    (root / "b/now").write_bytes(b"a file became a directory")
    (root / "c").chmod(0o755)
    (root / "t").touch()
    shutil.rmtree(root / "d")
    (root / "d").write_bytes(b"a directory became a file")
    (root / "d").unlink()
    (root / "d").mkdir()
    (root / "d/again").write_bytes(b"and a directory again, which hides what was there")
    (root / "only/file").unlink()
    with pytest.raises(OSError, match="cross-device"):  # so `mv` copies; overlayfs redirects no directory here
        (root / "e").rename(root / "moved")
    subprocess.run(["mv", root / "e", root / "moved"], check=True)
    shutil.rmtree(root / "one/data")
    (root / "one/data").mkdir()
    (root / "one/data/opaque").write_bytes(b"o")
    (root / "one/dangling").unlink()


def test_changes_of_every_kind_are_what_the_next_pod_sees(node: Driver, base: str, out: str) -> None:
    left = written(node, out, rework, reference=base).as_volume
    assert mounted(node, out) == left
    assert {name for name in left if name.startswith("d/")} == {"d/again"}
    assert left["only"].kind == "directory"
    assert "e" not in left


@pytest.mark.parametrize("client", CLIENTS)
def test_changes_of_every_kind_are_what_others_pull(
    node: Driver, base: str, out: str, tmp_path: Path, client: type[Client]
) -> None:
    left = written(node, out, rework, reference=base)
    assert without_modes(pulled(client, out, tmp_path)) == without_modes(left.as_it_is)


def test_what_did_not_change_is_mounted_and_what_did_is_sent(
    node: Driver, base: str, out: str, registry: Distribution
) -> None:
    written(node, out, rework, reference=base)
    before, after = layers(base), layers(out)
    assert {title for title in before if after.get(title) == before[title]} == {"c", "kept/in/place", "run", "t", "two"}
    known = set(before.values()) & set(after.values())
    assert {after["moved/f/z"], after["moved/run"]} <= known
    place = re.escape(out.partition("/")[2].removesuffix(":v1"))
    log = registry.log.read_text()
    mounts = re.findall(rf'"POST /v2/{place}/blobs/uploads/\?mount=sha256%3A(\w+)&from=\S+ HTTP/1.1" 201 ', log)
    sent = re.findall(rf'"PUT /v2/{place}/blobs/uploads/\S+&digest=(sha256:\w+) HTTP/1.1" 201 ', log)
    assert {f"sha256:{digest}" for digest in mounts} == known
    assert sorted(sent) == sorted({*after.values(), sha256(b"{}")} - known)


def test_annotations_name_the_base_and_the_pod(node: Driver, base: str, out: str) -> None:
    written(node, out, rework, reference=base)
    found = document(out)
    assert found["artifactType"] == "a/b"
    annotations = found["annotations"]
    pod = annotations.pop("land.oras.csi.pod.name")
    assert re.fullmatch(r"writer-\d+", pod)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", annotations.pop("org.opencontainers.image.created"))
    assert annotations == {
        "org.opencontainers.image.base.name": base,
        "org.opencontainers.image.base.digest": sha256(manifest_of(base)[0]),
        "land.oras.csi.pod.namespace": "default",
    }


def test_two_pods_that_write_the_same_share_every_layer(node: Driver, out: str) -> None:
    others = out.replace("/out:", "/other:")
    for reference in (out, others):
        written(node, reference, everything)
    assert layers(out) == layers(others)


# -- over a base of every kind


def push_single(kind: str, pusher: Pusher, repository: str) -> str:
    """Push an artifact of a kind whose layers are files."""
    match kind:
        case "ollama":
            made = [Layer(content=kind.encode(), media_type=_OLLAMA + kind) for kind in ("model", "license", "params")]
            config = Layer(content=b"{}x", media_type="application/vnd.docker.container.image.v1+json")
            return push(pusher, repository, made, config, media_type=DOCKER_MANIFEST)
        case "modelpack":
            paths = (("weight.v1.raw", "weights/m"), ("code.v1.raw", "run"))
            made = [
                Layer(content=path.encode(), media_type=_MODELPACK + kind, annotations={_PATH: path})
                for kind, path in paths
            ]
            config = Layer(content=b'{"modelfs": {}}', media_type=_MODELPACK + "config.v1+json")
            return push(pusher, repository, made, config)
        case "helm":
            config = Layer(content=b'{"name": "tiny"}', media_type="application/vnd.cncf.helm.config.v1+json")
            chart = Layer(content=b"chart", media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip")
            return push(pusher, f"{repository}/tiny", [chart], config, tag="1.2.3")
        case "sif":
            config = Layer(content=b"{}", media_type="application/vnd.sylabs.sif.config.v1+json")
            made = [Layer(content=b"#!sif", media_type="application/vnd.sylabs.sif.layer.v1.sif")]
            return push(pusher, f"{repository}/alpine", made, config, tag="3.21")
        case "wasm":
            config = Layer(content=b'{"os": "wasip1"}', media_type="application/vnd.wasm.config.v0+json")
            return push(pusher, repository, [Layer(content=b"\0asm", media_type="application/wasm")], config)
        case _:
            return pusher.artifact(repository, [Layer(content=b"no title")])


SINGLES = ["ollama", "modelpack", "helm", "sif", "wasm", "untitled"]


def add(root: Path) -> None:
    (root / "new").write_bytes(b"new")


def add_and_remove(root: Path) -> None:
    first = min(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    first.unlink()
    add(root)


def turn(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode ^ 0o111)


CHANGES = [add, add_and_remove, turn, lambda _: None]


def push_kind(kind: str, pusher: Pusher, repository: str, directory: Path) -> str:
    """Push an artifact of a kind, of archives or of files."""
    if kind not in PACKERS:
        return push_single(kind, pusher, repository)
    return pack(kind, plant_links(plant(directory / DIRECTORY))).push(pusher, repository)


@pytest.mark.parametrize(
    ("kind", "unpack"), sorted({*product([*PACKERS, *SINGLES], ["auto", "never"])} - {("ollama", "never")})
)
def test_every_kind_that_is_written_to_is_what_the_next_pod_and_others_see(  # noqa: PLR0917 (fixtures)
    node: Driver, pusher: Pusher, repository: str, tmp_path: Path, kind: str, unpack: str
) -> None:
    base = push_kind(kind, pusher, f"{repository}/base", tmp_path)
    for number, change in enumerate(CHANGES):
        out = f"{pusher.address}/{repository}/out-{number}:v1"
        left = written(node, out, change, reference=base, unpack=unpack)
        assert mounted(node, out) == left.as_volume, change
        if manifest_of(out) != manifest_of(base):  # which is of its own kind, and for tools of that
            assert without_modes(pulled(OrasPy, out, tmp_path / out)) == without_modes(left.as_it_is), change


def test_base_that_shows_what_cannot_be_pushed_is_refused_before_anything_is_written(
    node: Driver, pusher: Pusher, repository: str, out: str
) -> None:
    base = push_single("ollama", pusher, repository)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, base, "a colon", "leave it out with exclude"):
        written(node, out, add, reference=base, unpack="never")  # it shows a path with the port of the registry
    written(node, out, add, reference=base, unpack="never", path="blobs")


# -- over a part of a base


@pytest.mark.parametrize(
    "selected",
    [{"path": "one"}, {"path": "kept/in"}, {"path": "e", "exclude": "e/run"}, {"include": "a,one/**/*.txt"},
     {"exclude": "one/data"}, {"mediaTypes": "application/vnd.oci.image.layer.v1.tar"}, {"unpack": "never"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("change", [add, lambda _: None], ids=["added", "unchanged"])
def test_part_of_a_base_is_what_is_pushed(
    node: Driver, base: str, out: str, selected: dict[str, str], change: Change
) -> None:
    left = written(node, out, change, reference=base, **selected)
    assert mounted(node, out) == left.as_volume


# -- a part of what is left


@pytest.mark.parametrize("change", [rework, lambda _: None], ids=["changed", "unchanged"])
@pytest.mark.parametrize(
    ("globs", "passing"),
    [
        ({"writeBackInclude": "a,moved,one/data,d,kept,two/**"}, r"(a|moved|one/data|d|kept|two/[^/]+)(/.*)?"),
        ({"writeBackExclude": "./one/,*/in,c,d/x"}, r"(?!(one|[^/]+/in|c|d/x)(/|$)).*"),
    ],
    ids=["include", "exclude"],
)
def test_part_of_what_is_left_is_what_is_pushed(  # noqa: PLR0917 (fixtures)
    node: Driver, base: str, out: str, globs: dict[str, str], passing: str, change: Change
) -> None:
    left = written(node, out, change, reference=base, **globs).as_volume
    names = {name for name in left if re.fullmatch(passing, name)}
    above = {str(parent) for name in names for parent in Path(name).parents}
    assert mounted(node, out) == {name: found for name, found in left.items() if name in names | above}
    assert manifest_of(out) != manifest_of(base)


def test_base_of_which_nothing_is_left_out_stays_as_it_is(node: Driver, base: str, out: str) -> None:
    written(node, out, lambda root: (root / "x.tmp").touch(), reference=base, writeBackExclude="*.tmp")
    assert manifest_of(out) == manifest_of(base)
