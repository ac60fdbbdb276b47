"""Selection within archives of every kind, and that nothing is downloaded that is not selected."""

import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest

from csi_oras.demo.distribution import Distribution
from tests.support import tars
from tests.support.access_log import AccessLog
from tests.support.artifacts import Layer, Pusher, sha256
from tests.support.calls import refused
from tests.support.kinds import as_volume, compressed, file, manifest_of, plant, push_index, shown, tar
from tests.support.kinds_archives import DIRECTORY, PACKERS, Packed, image, oras_directory, pack
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]

_MODEL = "application/vnd.cncf.model."
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_SELECTIONS = [
    ({"include": "**/*.md"}, ["tree/README.md"]),
    ({"include": "tree/data/*.bin, tree/run.sh"}, ["tree/data/one.bin", "tree/run.sh"]),
    ({"include": "tree/data"}, ["tree/data/deep/two.txt", "tree/data/one.bin", "tree/data/ünï code"]),
    ({"include": "tree", "exclude": "tree/data, **/run.sh"}, ["tree/README.md", "tree/empty"]),
    ({"path": "tree/data"}, ["deep/two.txt", "one.bin", "ünï code"]),
    ({"path": "tree/data", "exclude": "tree/data/deep/**"}, ["one.bin", "ünï code"]),
    ({"path": "tree", "include": "tree/data/deep"}, ["data/deep/two.txt"]),
]


Push = Callable[[Packed], str]


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A directory to pack, unlike any other test's: what another test has downloaded is not downloaded again."""
    return plant(tmp_path / DIRECTORY, str(tmp_path))


@pytest.fixture
def push(pusher: Pusher, repository: str) -> Push:
    """What pushes to the test's own repository and returns the reference."""
    return lambda packed: packed.push(pusher, repository)


@pytest.fixture
def log(registry: Distribution, repository: str) -> AccessLog:
    """What the registry was asked for there."""
    return AccessLog(registry, repository)


def downloaded(log: AccessLog, wanted: Sequence[str], unwanted: Sequence[str]) -> None:
    """Check at the registry that blobs and manifests were fetched once, and others never asked for."""
    for digest in wanted:
        assert len(log.gets(digest)) == 1, digest
    asked = {request.path.rpartition("/")[2] for request in log.requests()}
    assert not asked & set(unwanted)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("selection", _SELECTIONS, ids=lambda case: str(case[0]))
def test_selection_within_an_archive_shows_what_it_says(
    volume: Volume, push: Push, planted: Path, kind: str, selection: tuple[dict[str, str], list[str]]
) -> None:
    attributes, names = selection
    volume.publish(reference=push(pack(kind, planted)), **attributes)
    whole, root = as_volume(planted), Path(attributes.get("path", "."))
    files = {name: entry for name, entry in shown(volume.target).items() if entry.kind == "file"}
    assert files == {name: whole[str((root / name).relative_to(DIRECTORY))] for name in names}


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("name", ["tree/run.sh", "tree/data/deep/two.txt"])
def test_path_of_one_file_in_an_archive_is_that_file(
    volume: Volume, push: Push, planted: Path, kind: str, name: str
) -> None:
    volume.publish(reference=push(pack(kind, planted)), path=name)
    content = planted.parent.joinpath(name).read_bytes()
    assert shown(volume.target) == {".": file(content, executable=name.endswith(".sh"))}


ROOT: list[tars.Description] = [
    {"name": "usr/bin/dash", "content": "#!", "mode": "755"},
    {"name": "usr/bin/sh", "type": "symlink", "link": "dash"},
    {"name": "bin", "type": "symlink", "link": "/usr/bin"},
    {"name": "info/libc6:amd64.list", "content": "/lib"},
    {"name": "system\\x2d.slice", "content": "[Unit]"},
]


@pytest.mark.parametrize("path", ["info/libc6:amd64.list", "system\\x2d.slice"])
def test_path_may_name_whatever_file_an_image_has(volume: Volume, push: Push, path: str) -> None:
    volume.publish(reference=push(image([tars.tar(ROOT)])), path=path)
    assert shown(volume.target) == {".": file(b"/lib" if ":" in path else b"[Unit]", executable=False)}


@pytest.mark.parametrize(
    ("path", "link", "target"), [("usr/bin/sh", "usr/bin/sh", "dash"), ("bin/dash", "bin", "/usr/bin")]
)
def test_path_over_a_link_is_refused_with_what_it_points_to(
    volume: Volume, push: Push, path: str, link: str, target: str
) -> None:
    reference = push(image([tars.tar(ROOT)]))
    said = f'path leads over "{link}", which is a symbolic link to "{target}"; name what it points to'
    with refused(grpc.StatusCode.INVALID_ARGUMENT, reference, said):
        volume.publish(reference=reference, path=path)
    assert volume.is_gone()


@pytest.mark.parametrize("metadata", ["false", "true"])
def test_path_of_a_file_here_and_a_directory_there_is_refused_for_that(
    volume: Volume, push: Push, metadata: str
) -> None:
    layers = [
        Layer(content=tars.tar([{"name": "d/x"}]), media_type=_MODEL + "weight.v1.tar"),
        Layer(content=b"1", media_type=_MODEL + "weight.v1.raw", annotations={"org.cncf.model.filepath": "d/x/y"}),
    ]
    config = Layer(content=b"{}", media_type=_MODEL + "config.v1+json")
    reference = push(Packed(layers=layers, config=config))
    if metadata == "true":
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reference, "metadata needs a directory"):
            volume.publish(reference=reference, path="d/x", metadata=metadata)
    else:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, reference, "is a file of an archive and a directory"):
            volume.publish(reference=reference, path="d/x", metadata=metadata)
    assert volume.is_gone()


@pytest.mark.parametrize(
    "attributes", [{"path": "etc/third"}, {"include": "etc/third"}, {"exclude": "etc/first, etc/second"}], ids=str
)
def test_hard_links_over_layers_of_an_image_are_files_whatever_is_selected(
    volume: Volume, push: Push, attributes: dict[str, str]
) -> None:
    layers: list[list[tars.Description]] = [
        [{"name": "etc/first", "content": "1"}],
        [{"name": "etc/second", "type": "hardlink", "link": "etc/first"}],
        [{"name": "etc/third", "type": "hardlink", "link": "etc/second"}],
    ]
    volume.publish(reference=push(image([tars.tar(layer) for layer in layers])), **attributes)
    content = volume.target if "path" in attributes else volume.target / "etc/third"
    assert content.read_text() == "1"


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize(
    "attributes", [{"path": "tree/none"}, {"include": "tree/none"}, {"path": "tree/empty/x"}], ids=str
)
def test_selection_that_leaves_nothing_of_an_archive_is_refused(
    volume: Volume, push: Push, planted: Path, kind: str, attributes: dict[str, str]
) -> None:
    reference = push(pack(kind, planted))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, reference):
        volume.publish(reference=reference, **attributes)
    assert volume.is_gone()


def test_one_archive_with_two_selections_is_downloaded_once(
    volume: Volume, other: Volume, push: Push, log: AccessLog, planted: Path
) -> None:
    packed = pack("image", planted)
    reference = push(packed)
    volume.publish(reference=reference, path="tree/README.md")
    other.publish(reference=reference, include="tree/run.sh")
    assert (volume.target.is_file(), other.names()) == (True, ["tree/run.sh"])
    assert len(log.gets(sha256(packed.layers[0].content))) == 1


# -- what is not selected is not downloaded


@pytest.mark.parametrize(
    "attributes",
    [
        {"path": "models/a"}, {"path": "models/a/data"}, {"path": "models/a/run.sh"}, {"exclude": "models/b, notes"},
        {"include": "models/a"}, {"include": "models/a/**"}, {"include": "models/a/data/*"},
        {"include": "models/a/data", "exclude": "**/deep"},
    ],
    ids=str,
)  # fmt: skip
def test_directories_that_are_not_selected_are_not_downloaded(
    volume: Volume, push: Push, log: AccessLog, tmp_path: Path, attributes: dict[str, str]
) -> None:
    titles = ["models/a", "models/b"]
    layers = [oras_directory(title, tar(plant(tmp_path / title, f"{tmp_path} {title}"), title)) for title in titles]
    layers.append(Layer(content=str(tmp_path).encode(), title="notes"))
    volume.publish(reference=push(Packed(layers=layers)), **attributes)
    wanted, *unwanted = (sha256(layer.content) for layer in layers)
    downloaded(log, [wanted], unwanted)


def test_media_types_choose_among_files_and_archives_before_the_download(
    volume: Volume, push: Push, log: AccessLog, tmp_path: Path
) -> None:
    docs, code = (tar(plant(tmp_path / name, str(tmp_path)), name) for name in ("docs", "code"))
    layers = [
        Layer(content=str(tmp_path).encode(), media_type=_MODEL + "weight.v1.raw", title="w.gguf"),
        Layer(content=compressed(docs, "zstd"), media_type=_MODEL + "doc.v1.tar+zstd"),
        Layer(content=compressed(code, "gzip"), media_type=_MODEL + "code.v1.tar+gzip"),
    ]
    types = f"{_MODEL}doc.v1.tar+zstd,{_MODEL}weight.v1.raw"
    volume.publish(reference=push(Packed(layers=layers)), mediaTypes=types, exclude="w.gguf")
    expected = {f"docs/{name}".removesuffix("/."): entry for name, entry in as_volume(tmp_path / "docs").items()}
    assert shown(volume.target) == {".": expected["docs"]} | expected
    weights, documents, programs = (sha256(layer.content) for layer in layers)
    downloaded(log, [documents], [weights, programs])


def test_platforms_that_are_not_asked_for_are_not_downloaded(
    volume: Volume, pusher: Pusher, repository: str, log: AccessLog, tmp_path: Path
) -> None:
    images, manifests = {}, {}
    for name in (f"linux/{_MACHINE}", "linux/s390x", "linux/arm/v7"):
        planted = plant(tmp_path / name.replace("/", "-"), repository + name)
        images[name] = image([tar(planted)], architecture=name.split("/")[1])
        manifests[name], _ = manifest_of(images[name].push(pusher, repository))
    volume.publish(reference=push_index(pusher, repository, manifests), platform="linux/arm/v7")
    assert shown(volume.target) == as_volume(tmp_path / "linux-arm-v7")
    blobs = {name: [sha256(part.content) for part in (it.config, *it.layers)] for name, it in images.items()}
    wanted = [*blobs.pop("linux/arm/v7"), sha256(manifests.pop("linux/arm/v7"))]
    unwanted = [sha256(manifest) for manifest in manifests.values()]
    downloaded(log, wanted, [*unwanted, *(digest for digests in blobs.values() for digest in digests)])


def test_platform_that_an_index_has_not_is_refused_with_those_that_it_has(
    volume: Volume, pusher: Pusher, repository: str, planted: Path
) -> None:
    manifest, _ = manifest_of(image([tar(planted)]).push(pusher, repository))
    reference = push_index(pusher, repository, {"linux/s390x": manifest})
    with refused(grpc.StatusCode.FAILED_PRECONDITION, reference, "linux/riscv64", "linux/s390x"):
        volume.publish(reference=reference, platform="linux/riscv64")
    assert volume.is_gone()


def test_config_that_no_name_depends_on_is_not_downloaded(
    volume: Volume, other: Volume, push: Push, log: AccessLog, tmp_path: Path
) -> None:
    config = Layer(content=json.dumps({"of": str(tmp_path)}).encode(), media_type="application/x.config+json")
    layer = Layer(content=str(tmp_path).encode(), title="x")
    reference = push(Packed(layers=[layer], config=config))
    volume.publish(reference=reference)
    downloaded(log, [sha256(layer.content)], [sha256(config.content)])
    other.publish(reference=reference, metadata="true")
    downloaded(log, [sha256(layer.content), sha256(config.content)], [])
