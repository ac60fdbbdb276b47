"""`index`, and what `push` and `inspect` say of chunk indexes, at registries as they are."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import EMPTY_TYPE, OCI_INDEX, OCI_MANIFEST, Layer, Pusher, manifest, sha256
from tests.support.chunks import ANNOTATION, INDEX_TYPE, chunk_index, listed, lying, referrer
from tests.support.kinds import tar
from tests.support.kinds_archives import oras_directory
from tests.support.outputs import KEPT
from tests.support.private_registry import PASSWORD, USER, private_registry
from tests.support.referrers_registry import referrers_registry

BIG, OTHER = os.urandom(3 << 20), os.urandom((1 << 20) + 1)
LAYERS = [Layer(content=OTHER, title="z"), Layer(content=b"small", title="s"), Layer(content=BIG, title="a")]
INDEX = chunk_index(OTHER, BIG)
ACCEPT = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("distribution", marks=pytest.mark.needs("registry")),
        pytest.param("go-containerregistry", marks=pytest.mark.needs("referrers registry")),
    ],
)
def either(
    request: pytest.FixtureRequest, registry: Distribution, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pusher]:
    """A registry without the referrers API, and one with it."""
    if request.param == "distribution":
        yield Pusher(registry.address, ACCEPT)
        return
    with referrers_registry(tmp_path_factory.mktemp("referrers") / "registry.log") as running:
        yield Pusher(running.address, ACCEPT)


@pytest.fixture
def pusher(registry: Distribution) -> Pusher:
    return Pusher(registry.address, ACCEPT)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def run(state: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    ended = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)
    KEPT.keep("command", ended.stdout + ended.stderr)
    return ended


def document(state: Path, *arguments: str, stdin: str = "") -> Any:
    ended = run(state, *arguments, "--json", stdin=stdin)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return json.loads(ended.stdout)


def fetched(pusher: Pusher, repository: str, kind: str, digest: str) -> bytes:
    status, content = pusher.get(f"/v2/{repository}/{kind}/{digest}")
    assert status == 200
    return content


# -- index


def test_index_is_made_of_what_was_pushed_without_one(state: Path, either: Pusher, repository: str) -> None:
    reference = either.artifact(repository, LAYERS)
    digest = sha256(manifest(LAYERS))
    assert document(state, "inspect", reference)["index"] == "none"
    assert document(state, "index", reference) == {
        "reference": f"{reference}@{digest}",
        "digest": digest,
        "index": sha256(INDEX),
        "blobs": 2,
        "chunks": 5,
        "fetchedBytes": len(BIG) + len(OTHER) + 5,
    }
    assert fetched(either, repository, "blobs", sha256(INDEX)) == INDEX
    assert document(state, "inspect", reference)["index"] == "hint"
    assert document(state.with_name("other"), "index", reference)["fetchedBytes"] == 0
    ended = run(state, "index", reference)
    assert "5 chunks of 2 blobs, which was there already" in ended.stdout


def test_index_of_what_is_on_this_node_fetches_nothing(state: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, LAYERS)
    assert document(state, "pull", reference)["fetchedBytes"] == len(BIG) + len(OTHER) + 5
    made = document(state, "index", reference)
    assert (made["index"], made["fetchedBytes"]) == (sha256(INDEX), 0)
    # and of what the node has an index of its own, it need not even have the bytes
    shutil.rmtree(state / "blobs/sha256")
    again = pusher.artifact(f"{repository}/again", LAYERS)
    assert document(state, "index", again)["fetchedBytes"] == 0


def test_index_of_small_files_is_none(state: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"small", title="s")])
    made = document(state, "index", reference)
    assert (made["index"], made["blobs"], made["chunks"], made["fetchedBytes"]) == (None, 0, 0, 0)
    assert "it needs no chunk index" in run(state, "index", reference).stdout


def test_index_of_packed_layers_is_of_them_as_they_are(
    state: Path, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(BIG)
    layer = oras_directory("d", tar(tmp_path / "d"))
    reference = pusher.artifact(repository, [layer])
    assert document(state, "index", reference)["index"] == sha256(chunk_index(layer.content))
    assert not list((state / "objects").rglob("*-*"))  # nothing was unpacked for it


def test_index_that_says_too_little_is_made_anew(state: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, LAYERS)
    artifact = manifest(LAYERS)
    attach(pusher, repository, artifact, chunk_index(BIG))
    assert document(state, "index", reference)["index"] == sha256(INDEX)


def test_index_that_a_manifest_names_and_nobody_has_is_put_in_its_place(
    state: Path, pusher: Pusher, repository: str
) -> None:
    annotations = {ANNOTATION: sha256(INDEX)}
    reference = pusher.artifact(repository, LAYERS, annotations=annotations)
    assert json.loads(run(state, "inspect", reference, "--json").stdout)["index"] == "none"
    made = run(state, "index", reference, "--json")
    assert "a chunk index is not used" in made.stderr
    assert json.loads(made.stdout)["index"] == sha256(INDEX)
    assert document(state, "inspect", reference)["index"] == "bound"


def test_index_of_bytes_that_have_rotted_is_not_made(state: Path, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, LAYERS)
    document(state, "pull", reference)
    blob = state / "blobs" / sha256(BIG).replace(":", "/")
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"rotten")
    ended = run(state, "index", reference)
    assert ended.returncode == 1
    assert "has rotted on this node's disk" in ended.stderr
    assert document(state, "inspect", reference)["index"] == "none"
    made = document(state, "index", reference)
    assert (made["index"], made["fetchedBytes"]) == (sha256(INDEX), len(BIG))


def attach(pusher: Pusher, repository: str, artifact: bytes, index: bytes) -> None:
    content = referrer(index, artifact)
    pusher.blob(repository, index)
    pusher.manifest(repository, sha256(content), content)
    pusher.manifest(repository, sha256(artifact).replace(":", "-"), listed(content), OCI_INDEX)


@pytest.mark.needs("registry")
def test_index_without_the_right_to_push_fails_before_anything_is_fetched(state: Path, tmp_path: Path) -> None:
    with private_registry(tmp_path / "private") as (_, owner):
        reference = owner.artifact("team/model", LAYERS)
        ended = run(state, "index", reference)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "wants a credential" in ended.stderr
        made = document(state, "index", reference, "--username", USER, "--password-stdin", stdin=f"{PASSWORD}\n")
        assert made["index"] == sha256(INDEX)


def test_index_of_what_is_not_there_is_one_line_and_exit_code_1(state: Path, pusher: Pusher, repository: str) -> None:
    absent = f"{pusher.address}/{repository}:absent"
    ended = run(state, "index", absent)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"csi-oras: {absent}")
    assert len(ended.stderr.splitlines()) == 1
    assert run(state, "index").returncode == 2


# -- push and inspect


def push(state: Path, pusher: Pusher, repository: str, directory: Path) -> dict[str, Any]:
    (directory / "d").mkdir(exist_ok=True)
    for layer in LAYERS:
        (directory / "d" / str(layer.title)).write_bytes(layer.content)
    found: dict[str, Any] = document(state, "push", f"{pusher.address}/{repository}:v1", str(directory / "d"))
    return found


def test_push_binds_an_index_and_its_digest_is_the_same_each_time(
    state: Path, either: Pusher, repository: str, tmp_path: Path
) -> None:
    first = push(state, either, repository, tmp_path)
    assert push(state, either, repository, tmp_path)["digest"] == first["digest"]
    index = chunk_index(BIG, OTHER)  # in the order of the names
    pushed = json.loads(fetched(either, repository, "manifests", first["digest"]))
    assert pushed["annotations"] == {ANNOTATION: sha256(index)}
    assert fetched(either, repository, "blobs", sha256(index)) == index
    assert document(state, "inspect", f"{either.address}/{repository}:v1")["index"] == "bound"
    made = document(state, "index", f"{either.address}/{repository}:v1")
    assert (made["index"], made["fetchedBytes"]) == (sha256(index), 0)
    assert not list((state / "trees").iterdir())


def test_index_that_was_pushed_is_listed_among_the_referrers(
    state: Path, either: Pusher, repository: str, tmp_path: Path
) -> None:
    digest = push(state, either, repository, tmp_path)["digest"]
    status, content = either.get(f"/v2/{repository}/referrers/{digest}")
    if status == 404:
        content = fetched(either, repository, "manifests", digest.replace(":", "-"))
    (entry,) = json.loads(content)["manifests"]
    assert entry["artifactType"] in (INDEX_TYPE, EMPTY_TYPE)  # which is what old registries say
    found = json.loads(fetched(either, repository, "manifests", entry["digest"]))
    assert (found["artifactType"], found["subject"]["digest"]) == (INDEX_TYPE, digest)


def test_inspect_says_what_is_pulled_before_it_is_mounted(
    state: Path, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"x")
    reference = pusher.artifact(repository, [oras_directory("d", tar(tmp_path / "d")), Layer(content=b"a", title="a")])
    assert [file["lazy"] for file in document(state, "inspect", reference)["files"]] == [False, False]
    assert "mode lazy: pulled all the same" in run(state, "inspect", reference).stdout
    packed = document(state, "inspect", reference, "--unpack", "never")
    assert [file["lazy"] for file in packed["files"]] == [True, True]
    assert "mode lazy: read on demand, no chunk index" in run(state, "inspect", reference, "--unpack", "never").stdout


def test_lying_index_is_nobodys_error(state: Path, pusher: Pusher, repository: str) -> None:
    index = lying(BIG)
    pusher.blob(repository, index)
    reference = pusher.artifact(repository, LAYERS, annotations={ANNOTATION: sha256(index)})
    assert document(state, "inspect", reference)["index"] == "bound"
    assert document(state, "pull", reference)["fetchedBytes"] == len(BIG) + len(OTHER) + 5
