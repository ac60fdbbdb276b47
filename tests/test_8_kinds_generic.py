"""Generic artifacts: what `oras` and oras-py push is shown as they pull it."""

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import oras.client
import oras.logger
import pytest

from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.kinds import as_volume, digest_name, file, plant, plant_links, shown, tar, tree
from tests.support.kinds_archives import oras_directory
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]

_DIRECTORY = "application/vnd.oci.image.layer.v1.tar+gzip"


def test_files_are_shown_under_their_titles(volume: Volume, pusher: Pusher, repository: str) -> None:
    named = {"a b.txt": b"spaces", "ünï/cöde": b"", "a..b/...": b"dots", "-rf": b"an option", "$(id)": b"a command"}
    layers = [Layer(content=content, title=title) for title, content in named.items()]
    layers.append(Layer(content=b"nameless"))
    volume.publish(reference=pusher.artifact(repository, layers))
    assert shown(volume.target) == tree({**named, digest_name(b"nameless"): b"nameless"})


@pytest.mark.parametrize("title", ["data", "data/", "models/v1/data"])
def test_directory_packed_by_oras_convention_is_unpacked_where_its_title_says(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, title: str
) -> None:
    planted = plant_links(plant(tmp_path / "expected" / title))
    layers = [oras_directory(title, tar(planted, title.rstrip("/"))), *files(beside=b"a file")]
    (tmp_path / "expected/beside").write_bytes(b"a file")
    volume.publish(reference=pusher.artifact(repository, layers))
    assert shown(volume.target) == as_volume(tmp_path / "expected")


def test_directory_titled_dot_is_the_root_and_a_file_may_be_executable(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    layers = [
        oras_directory(".", tar(plant_links(plant(tmp_path / "expected")))),
        Layer(content=b"#!/bin/sh", title="bin/run", annotations={"land.oras.csi.mode": "0755"}),
    ]
    (tmp_path / "expected/bin").mkdir(exist_ok=True)
    (tmp_path / "expected/bin/run").write_bytes(b"#!/bin/sh")
    (tmp_path / "expected/bin/run").chmod(0o755)
    volume.publish(reference=pusher.artifact(repository, layers))
    assert shown(volume.target) == as_volume(tmp_path / "expected")


def test_directory_is_an_archive_where_nothing_is_to_be_unpacked(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    layer = oras_directory("data", tar(plant(tmp_path / "data"), "data"))
    volume.publish(reference=pusher.artifact(repository, [layer]), unpack="never")
    assert shown(volume.target) == tree({"data": layer.content})


def test_directory_with_another_content_than_it_says_is_refused(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    archive = tar(plant(tmp_path / "data"), "data")
    layer = oras_directory("data", archive, content_digest=sha256(b"something else"))
    reference = pusher.artifact(repository, [*files(first=b"1"), layer])
    with refused(grpc.StatusCode.DATA_LOSS, reference, "layer 1", sha256(archive), sha256(b"something else")):
        volume.publish(reference=reference)
    assert volume.is_gone()


def test_directory_whose_content_digest_is_none_is_refused(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    layer = oras_directory("data", tar(plant(tmp_path / "data"), "data"), content_digest="sha256:none")
    reference = pusher.artifact(repository, [layer])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, reference, "layer 0"):
        volume.publish(reference=reference)
    assert volume.is_gone()


def test_archive_without_the_mark_of_a_directory_is_a_file(volume: Volume, pusher: Pusher, repository: str) -> None:
    named = {"data.tar.gz": gzip.compress(tar(Path(__file__)), mtime=0), "data.tgz": gzip.compress(b"", mtime=0)}
    layers = [Layer(content=content, title=title, media_type=_DIRECTORY) for title, content in named.items()]
    volume.publish(reference=pusher.artifact(repository, layers))
    assert shown(volume.target) == tree({name: file(content) for name, content in named.items()})


def with_oras_py(reference: str, source: Path, paths: list[str], out: Path) -> None:
    oras.logger.setup_logger(quiet=True)
    client = oras.client.OrasClient(insecure=True)
    client.session.trust_env = False
    files = [str(source / path) for path in paths]
    client.push(target=reference, files=files, disable_path_validation=True, quiet=True)
    client.pull(target=reference, outdir=str(out))


def with_oras(reference: str, source: Path, paths: list[str], out: Path) -> None:
    environment = {**os.environ, "HOME": str(out.parent), "DOCKER_CONFIG": str(out.parent)}
    for directory, command in ((source, ["push", reference, *paths]), (out, ["pull", reference])):
        arguments = ["oras", *command, "--plain-http"]
        subprocess.run(arguments, cwd=directory, check=True, capture_output=True, env=environment, timeout=60)


@pytest.mark.parametrize("push_and_pull", [with_oras_py, pytest.param(with_oras, marks=pytest.mark.peer("oras"))])
def test_what_an_oras_client_packs_is_shown_as_it_unpacks_it(
    volume: Volume,
    pusher: Pusher,
    repository: str,
    tmp_path: Path,
    push_and_pull: Callable[[str, Path, list[str], Path], None],
) -> None:
    plant_links(plant(tmp_path / "in/data"))
    (tmp_path / "in/config.json").write_bytes(b"{}x")
    (tmp_path / "out").mkdir()
    reference = f"{pusher.address}/{repository}:v1"
    push_and_pull(reference, tmp_path / "in", ["data", "config.json"], tmp_path / "out")
    volume.publish(reference=reference)
    assert shown(volume.target) == as_volume(tmp_path / "out")
    assert shown(volume.target)["data/run.sh"].mode == 0o555
