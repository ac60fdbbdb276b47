"""Container images: what umoci, skopeo and buildah make is shown as they unpack it."""

import json
import platform
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.support.artifacts import DOCKER_MANIFEST, OCI_MANIFEST, Pusher, sha256
from tests.support.kinds import COMPRESSIONS, Shown, as_volume, manifest_of, push_index, shown
from tests.support.kinds_images import Buildah, Images, layer_type, layer_types
from tests.support.tars import tar
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry", "image tools")
pytest_plugins = ["tests.support.shared"]

_FORMS = {"oci": OCI_MANIFEST, "docker": DOCKER_MANIFEST}
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def first_layer(root: Path) -> None:
    """A small root file system, with the names, modes and links that real ones have."""
    for name, mode in (
        ("etc/passwd", 0o644), ("etc/shadow", 0o600), ("etc/app/one.conf", 0o644), ("etc/app/two.conf", 0o640),
        ("usr/bin/tool", 0o755), ("usr/bin/su", 0o4755), ("usr/bin/write", 0o2755), ("usr/bin/group", 0o710),
        ("usr/lib/lib.so.1", 0o644), ("var/cache/old", 0o644), ("var/log/lost", 0o644), ("opt/file", 0o644),
        ("var/lib/dpkg/info/libc6:amd64.list", 0o644), (r"usr/lib/systemd/system-systemd\x2dcryptsetup.slice", 0o644),
        ("srv/a b/ünï cöde", 0o666), ("srv/deep/er/and/deep/er", 0o444),
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(mode)
    (root / "large").write_bytes(bytes(range(256)) * 5000)
    (root / "empty").write_bytes(b"")
    (root / "tmp").mkdir(mode=0o1777)
    (root / "root").mkdir(mode=0o700)
    for name, target in (
        ("bin", "usr/bin"), ("usr/lib/lib.so", "lib.so.1"), ("etc/up", "../srv/deep"), ("etc/itself", "."),
        ("etc/alternatives", "/usr/bin/tool"), ("var/run", "/run"), ("etc/top", "/"), ("srv/dangling", "x"),
        ("usr/bin/gone", "/no/such/file"), ("loop", "loop"), ("srv/long", "./deep//er/./and"),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    (root / "usr/bin/other name").hardlink_to(root / "usr/bin/tool")
    (root / "hard").hardlink_to(root / "etc/shadow")


def second_layer(root: Path) -> None:
    """Everything that a layer can change of the one below."""
    (root / "etc/passwd").write_text("changed\n")
    (root / "opt/file").chmod(0o755)
    (root / "etc/app/one.conf").unlink()
    (root / "var/cache/old").unlink()
    (root / "var/cache").rmdir()
    (root / "var/cache").write_text("a file where a directory was\n")
    (root / "var/log/lost").unlink()
    (root / "var/log/lost").mkdir()
    (root / "var/log/lost/found").write_text("a directory where a file was\n")
    (root / "etc/up").unlink()
    (root / "etc/up").write_text("a file where a link was\n")
    (root / "empty").unlink()
    (root / "empty").symlink_to("/etc/up")
    (root / "usr/bin/other name").unlink()
    (root / "usr/bin/a third name").hardlink_to(root / "usr/bin/tool")


_LAST = [
    {"name": "./", "type": "directory", "mode": "0000"},
    {"name": "./srv/.wh.a b"},
    {"name": "./srv/.wh.was never there"},
    {"name": "./below", "type": "hardlink", "link": "./usr/lib/lib.so.1"},
    {"name": "./usr/lib/lib.so.1", "content": "new, after its old content got another name"},
    {"name": "./srv/deep/.wh..wh..opq"},
    {"name": "./srv/deep/new", "content": "beside nothing"},
    {"name": "no/directory/of/its/own", "content": "x", "mode": "0001"},
]
"""A layer by hand, with what umoci reads and never writes: no builder's, but allowed (image-spec, layer.md)."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tmp_path_factory.mktemp("images"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An image of four layers that has all of it, and what a volume shows of what umoci makes of it."""

    images: Images
    tag: str
    unpacked: dict[str, Shown]


@pytest.fixture(scope="module")
def whole(images: Images) -> Whole:
    tag = images.new("whole")
    images.layer(tag, first_layer)
    images.layer(tag, second_layer)
    fresh = images.directory / "fresh"
    fresh.mkdir()
    (fresh / "three.conf").write_text("alone in its directory\n")
    images.opaque(tag, fresh, "/etc/app")
    images.raw(tag, tar(_LAST))
    return Whole(images=images, tag=tag, unpacked=as_volume(images.unpacked(tag)))


@pytest.mark.parametrize(
    "form", list(product(_FORMS, COMPRESSIONS)), ids=lambda form: f"{form[0]}-{form[1] or 'plain'}"
)
def test_image_is_shown_as_umoci_unpacks_it(
    whole: Whole, volume: Volume, pusher: Pusher, repository: str, form: tuple[str, str]
) -> None:
    media_type, compression = _FORMS[form[0]], form[1]
    reference = whole.images.push(whole.tag, pusher, repository, media_type, compression)
    manifest, found = manifest_of(reference)
    assert (found, layer_types(manifest)) == (media_type, {layer_type(media_type, compression)})
    volume.publish(reference=reference)
    assert shown(volume.target) == whole.unpacked


def test_image_has_each_of_the_cases(whole: Whole) -> None:
    """The comparison above is worth what umoci's side of it holds."""
    unpacked = whole.unpacked
    assert unpacked["etc/alternatives"].content == b"../usr/bin/tool"
    assert unpacked["srv/deep/new"].content == b"beside nothing"
    assert unpacked["below"].content == b"usr/lib/lib.so.1\n"
    assert unpacked["usr/lib/lib.so.1"].content.startswith(b"new")
    assert (unpacked["usr/bin/su"].mode, unpacked["usr/bin/a third name"].mode) == (0o555, 0o555)
    assert [name for name in unpacked if name.startswith("etc/app/")] == ["etc/app/three.conf"]
    assert [name for name in unpacked if name.startswith("srv/deep/")] == ["srv/deep/new"]
    gone = {"etc/app/one.conf", "var/cache/old", "usr/bin/other name", "srv/a b"}
    assert not gone & set(unpacked)


def test_image_made_by_buildah_is_shown_as_buildah_has_it(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    buildah = Buildah(tmp_path / "buildah")
    container = buildah.run("from", "scratch")
    first_layer(tmp_path / "context")
    (tmp_path / "context/loop").unlink()  # the one thing that buildah does not copy
    buildah.run("copy", container, tmp_path / "context", "/app")
    reference = f"{pusher.address}/{repository}:v1"
    buildah.commit(container, reference)
    expected = as_volume(Path(buildah.run("mount", container)))
    volume.publish(reference=reference)
    assert shown(volume.target) == expected
    assert expected["app/usr/bin/tool"].mode == 0o555
    buildah.run("umount", container)
    buildah.run("rm", container)


def test_layer_that_ends_with_its_last_file_is_shown(
    images: Images, volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    """Layers of `umoci insert` have no padding after their last file and no end marker; Go reads them all the same."""
    (tmp_path / "file").write_text("23 bytes\n")
    tag = images.new("cut")
    images.run("umoci", "insert", "--image", f"{images.layout}:{tag}", tmp_path / "file", "/etc/file")
    reference = images.push(tag, pusher, repository, OCI_MANIFEST, "")
    assert json.loads(manifest_of(reference)[0])["layers"][0]["size"] % 512 == len("23 bytes\n")
    volume.publish(reference=reference)
    assert shown(volume.target) == as_volume(images.unpacked(tag))


def test_image_without_layers_is_an_empty_volume(
    images: Images, volume: Volume, pusher: Pusher, repository: str
) -> None:
    volume.publish(reference=images.push(images.new("none"), pusher, repository, OCI_MANIFEST, "gzip"))
    assert list(shown(volume.target)) == ["."]


def test_image_that_is_not_to_be_unpacked_shows_its_layers(
    whole: Whole, volume: Volume, pusher: Pusher, repository: str
) -> None:
    reference = whole.images.push(whole.tag, pusher, repository, OCI_MANIFEST, "gzip")
    manifest, _ = manifest_of(reference)
    volume.publish(reference=reference, unpack="never")
    digests = [layer["digest"] for layer in json.loads(manifest)["layers"]]
    assert volume.names() == sorted(f"{digest.replace(':', '-')}.tar.gz" for digest in digests)
    assert {sha256(path.read_bytes()) for path in volume.target.iterdir()} == set(digests)


def test_two_versions_of_an_image_share_the_files_that_are_equal(
    images: Images, volume: Volume, other: Volume, pusher: Pusher, repository: str
) -> None:
    def build(tag: str, changed: str) -> str:
        def fill(root: Path) -> None:
            for number in range(20):
                (root / f"{number}").write_text(f"file {number} of {repository}\n")
            (root / "3").write_text(changed)
            (root / "large").write_bytes(repository.encode() * 50_000)
            (root / "moved" if changed == "new" else root / "here").write_text(f"moved in {repository}\n")
            (root / "mode").write_text(f"a mode in {repository}\n")
            (root / "mode").chmod(0o755 if changed == "new" else 0o644)

        images.layer(images.new(tag), fill)
        return images.push(tag, pusher, f"{repository}/{tag}", OCI_MANIFEST, "gzip")

    volume.publish(reference=build("old", "old"))
    other.publish(reference=build("new", "new"))
    old, new = (
        {path.name: (path.stat().st_dev, path.stat().st_ino) for path in one.target.iterdir()}
        for one in (volume, other)
    )
    assert {name for name in old.keys() & new.keys() if old[name] != new[name]} == {"3", "mode"}
    assert old["here"] == new["moved"]


def test_index_of_images_shows_the_platform_that_is_asked_for(
    images: Images, volume: Volume, other: Volume, pusher: Pusher, repository: str
) -> None:
    manifests = {}
    for architecture in (_MACHINE, "s390x"):
        tag = images.new(f"for-{architecture}")
        images.layer(tag, lambda root, text=architecture: (root / "architecture").write_text(text))  # type: ignore[misc]
        pushed = images.push(tag, pusher, repository, OCI_MANIFEST, "gzip")
        manifests[f"linux/{architecture}"], _ = manifest_of(pushed)
    reference = push_index(pusher, repository, manifests)
    volume.publish(reference=reference)
    other.publish(reference=reference, platform="linux/s390x")
    assert (volume.target / "architecture").read_text() == _MACHINE
    assert (other.target / "architecture").read_text() == "s390x"
