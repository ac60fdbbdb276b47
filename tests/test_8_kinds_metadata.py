"""`metadata`: a pod can tell which artifact it was given, to the byte."""

from pathlib import Path

import grpc
import pytest

from tests.support.artifacts import Layer, Pusher, files, sha256
from tests.support.calls import refused
from tests.support.kinds import DIRECTORY as MODE
from tests.support.kinds import Shown, as_volume, file, manifest_of, plant, push_index, shown, tar
from tests.support.kinds_archives import PACKERS, Packed, image, pack
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]


def metadata(manifest: bytes, config: bytes, pinned: str) -> dict[str, Shown]:
    return {
        ".oci": Shown(kind="directory", mode=MODE),
        ".oci/manifest.json": file(manifest),
        ".oci/config": file(config),
        ".oci/reference": file(f"{pinned}\n".encode()),
    }


def pinned(reference: str) -> str:
    """The reference with the digest of what its tag leads to."""
    return f"{reference}@{sha256(manifest_of(reference)[0])}"


@pytest.mark.parametrize("kind", PACKERS)
def test_metadata_is_what_the_registry_has(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, kind: str
) -> None:
    packed = pack(kind, plant(tmp_path / "tree"))
    reference = packed.push(pusher, repository)
    volume.publish(reference=reference, metadata="true", exclude="Kitfile")
    expected = metadata(manifest_of(reference)[0], packed.config.content, pinned(reference))
    assert shown(volume.target) == as_volume(tmp_path) | expected


def test_metadata_of_an_index_pins_the_index_and_shows_the_manifest_of_the_platform(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    planted = plant(tmp_path / "root")
    packed = image([tar(planted)], architecture="s390x")
    manifest, _ = manifest_of(packed.push(pusher, repository))
    reference = push_index(pusher, repository, {"linux/s390x": manifest})
    volume.publish(reference=reference, metadata="true", platform="linux/s390x")
    expected = metadata(manifest, packed.config.content, pinned(reference))
    assert shown(volume.target) == as_volume(planted) | expected
    assert pinned(reference).endswith(sha256(manifest_of(reference)[0]))


@pytest.mark.parametrize("kind", ["oras", "image", "kit"])
def test_metadata_stands_beside_what_path_makes_the_root(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, kind: str
) -> None:
    packed = pack(kind, plant(tmp_path / "tree"))
    reference = packed.push(pusher, repository)
    volume.publish(reference=reference, metadata="true", path="tree/data")
    expected = metadata(manifest_of(reference)[0], packed.config.content, pinned(reference))
    assert shown(volume.target) == as_volume(tmp_path / "tree/data") | expected


@pytest.mark.parametrize("selection", [{"include": "a"}, {"exclude": ".oci, b"}, {"mediaTypes": "text/a"}], ids=str)
def test_metadata_is_there_whatever_else_is_selected(
    volume: Volume, pusher: Pusher, repository: str, selection: dict[str, str]
) -> None:
    layers = [Layer(content=b"1", title="a", media_type="text/a"), Layer(content=b"2", title="b")]
    config = Layer(content=b'{"a": 1}', media_type="application/x.config+json")
    reference = Packed(layers=layers, config=config).push(pusher, repository)
    volume.publish(reference=reference, metadata="true", **selection)
    assert volume.names() == [".oci/config", ".oci/manifest.json", ".oci/reference", "a"]


@pytest.mark.parametrize("kind", ["files", "image"])
def test_metadata_has_no_place_in_a_single_file(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, kind: str
) -> None:
    if kind == "files":
        reference = pusher.artifact(repository, files(x=b"1"))
    else:
        (tmp_path / "x").write_text("1")
        reference = image([tar(tmp_path)]).push(pusher, repository)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, reference, "metadata"):
        volume.publish(reference=reference, metadata="true", path="x")
    assert volume.is_gone()
