"""Container images: layers as change sets, checked against the config, and what only looks like an image."""

import json
from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError, UnsupportedContentError
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Compression
from tests.support.artifacts import DOCKER_MANIFEST, EMPTY_TYPE, OCI_MANIFEST, Layer, sha256
from tests.support.planning import artifact, named, planned, shown

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI, DOCKER = "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"
ATTESTATION = "application/vnd.in-toto+json"
UNPACK = {"io.deis.oras.content.unpack": "true"}


def layer(content: bytes, media_type: str = f"{OCI}+gzip", **options: Any) -> Layer:
    return Layer(content=content, media_type=media_type, **options)


def contents(*layers: Layer) -> dict[str, Any]:
    """The rootfs of a config that agrees with the layers."""
    return {"type": "layers", "diff_ids": [sha256(each.content + b", uncompressed") for each in layers]}


def image(*layers: Layer, rootfs: Any = None, config: str = OCI_CONFIG, **members: Any) -> Any:
    if not isinstance(rootfs, bytes):  # bytes are the whole config
        agreeing = contents(*layers) if rootfs is None else rootfs
        rootfs = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": agreeing}).encode()
    return artifact(layers, Layer(content=rootfs, media_type=config), **members)


@pytest.mark.parametrize(
    ("media_type", "how", "suffix"),
    [
        (OCI, Compression.NONE, ".tar"),
        (f"{OCI}+gzip", Compression.GZIP, ".tar.gz"),
        (f"{OCI}+zstd", Compression.ZSTD, ".tar.zst"),
        (DOCKER, Compression.NONE, ".tar"),
        (f"{DOCKER}.gzip", Compression.GZIP, ".tar.gz"),
        (f"{DOCKER}.zstd", Compression.ZSTD, ".tar.zst"),
    ],
)
def test_layers_are_checked_change_sets_or_packed_files(media_type: str, how: Compression, suffix: str) -> None:
    layers = [layer(b"base", media_type), layer(b"app", media_type)]
    found = image(*layers)
    assert kind_of(found.manifest).name == "image"
    plan = planned(found)
    assert plan.entries == ()
    assert [archive.layer for archive in plan.archives] == [0, 1]
    assert {(archive.compression, archive.root, archive.is_image_layer) for archive in plan.archives} == {
        (how, None, True)
    }
    assert not any(archive.skips_links for archive in plan.archives)
    expected = [Digest.of(b"base, uncompressed"), Digest.of(b"app, uncompressed")]
    assert [archive.content for archive in plan.archives] == expected
    packed = planned(found, unpack=False)
    assert shown(packed) == {named(each, suffix): (number, "digest, packed") for number, each in enumerate(layers)}
    assert packed.archives == ()


@pytest.mark.parametrize(
    ("config", "media_type"),
    [(OCI_CONFIG, OCI_MANIFEST), (DOCKER_CONFIG, DOCKER_MANIFEST), (DOCKER_CONFIG, OCI_MANIFEST)],
)
def test_image_is_known_by_its_config(config: str, media_type: str) -> None:
    found = image(layer(b"1"), layer(b"2", f"{DOCKER}.gzip"), config=config, media_type=media_type)
    assert kind_of(found.manifest).name == "image"
    assert len(planned(found).archives) == 2


def test_image_may_name_its_own_config_type_as_artifact_type() -> None:
    assert kind_of(image(layer(b"1"), artifactType=OCI_CONFIG).manifest).name == "image"


def test_layer_twice_is_applied_twice_and_shown_once() -> None:
    found = image(layer(b"same"), layer(b"other"), layer(b"same"))
    assert [archive.layer for archive in planned(found).archives] == [0, 1, 2]
    assert len(planned(found, unpack=False).entries) == 2


def test_annotations_of_builders_do_not_matter() -> None:
    annotated = layer(b"1", annotations={"containerd.io/snapshot/stargz/toc.digest": sha256(b"toc")})
    assert kind_of(image(annotated).manifest).name == "image"


# -- what only looks like an image

NO_IMAGES = {
    "titled files of an old ORAS": ([layer(b"1", OCI, title="a.txt")], OCI_CONFIG, {}),
    "one title of several": ([layer(b"1"), layer(b"2", title="a.txt")], OCI_CONFIG, {}),
    "a packed directory": ([layer(b"1", annotations=UNPACK)], OCI_CONFIG, {}),
    "another artifact type": ([layer(b"1")], OCI_CONFIG, {"artifactType": "application/vnd.acme.thing"}),
    "another config": ([layer(b"1")], "application/vnd.unknown.config.v1+json", {}),
    "an empty config": ([layer(b"1")], EMPTY_TYPE, {}),
    "no layer of an image": ([layer(b"1", ATTESTATION), layer(b"2", "text/plain")], OCI_CONFIG, {}),
    "no layers": ([], OCI_CONFIG, {}),
}


@pytest.mark.parametrize(("layers", "config", "members"), NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_artifact_that_only_looks_like_an_image_is_generic(
    layers: list[Layer], config: str, members: dict[str, str]
) -> None:
    found = artifact(layers, Layer(content=b"{}", media_type=config), **members)
    assert kind_of(found.manifest).name == "generic"
    plan = planned(found)
    assert len(plan.entries) + len(plan.archives) == len(layers)
    assert not any(archive.is_image_layer for archive in plan.archives)


# -- layers that are none


def test_what_is_no_layer_is_left_out_where_the_config_agrees_on_the_rest() -> None:
    layers = [layer(b"1"), layer(b"statement", ATTESTATION), layer(b"2")]
    plan = planned(image(*layers, rootfs=contents(layers[0], layers[2])))
    expected = [(0, Digest.of(b"1, uncompressed")), (2, Digest.of(b"2, uncompressed"))]
    assert [(archive.layer, archive.content) for archive in plan.archives] == expected
    assert [(left.layer, left.reason) for left in plan.left] == [
        (1, f"media type {ATTESTATION} is no layer of an image")
    ]


def test_what_is_no_layer_is_a_file_where_nothing_is_unpacked() -> None:
    layers = [layer(b"1"), layer(b"statement", ATTESTATION)]
    plan = planned(image(*layers, rootfs=contents(layers[0])), unpack=False)
    assert shown(plan) == {named(layers[0], ".tar.gz"): (0, "digest, packed"), named(layers[1]): (1, "digest")}


@pytest.mark.parametrize("kept", [0, 1, 3], ids=["none", "too few", "too many"])
def test_config_that_lists_another_number_of_layers_is_refused(kept: int) -> None:
    ids = [sha256(str(number).encode()) for number in range(kept)]
    with pytest.raises(HostileContentError, match=rf", config \(.*\): lists {kept} layers where the manifest has 2"):
        planned(image(layer(b"1"), layer(b"2"), rootfs={"type": "layers", "diff_ids": ids}))


def test_config_that_counts_what_is_no_layer_is_refused() -> None:
    with pytest.raises(HostileContentError, match="lists 2 layers where the manifest has 1"):
        planned(image(layer(b"1"), layer(b"statement", ATTESTATION)))


@pytest.mark.parametrize(
    "rootfs",
    ["layers", [], {}, {"diff_ids": None}, {"diff_ids": {}}, {"diff_ids": [5]}, {"diff_ids": ["sha256:short"]},
     {"diff_ids": ["md5:d41d8cd98f00b204e9800998ecf8427e"]}, {"diff_ids": ["../../x"]},
     b"", b"{}", b"<html>", b"[]", b"\xff", b'{"rootfs": {}, "rootfs": {}}'],
    ids=ascii,
)  # fmt: skip
def test_malformed_config_is_refused(rootfs: Any) -> None:
    found = image(layer(b"1"), rootfs=rootfs)
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, config \(") as caught:
        planned(found)
    assert caught.value.message.isprintable()
    assert len(planned(found, unpack=False).entries) == 1


@pytest.mark.parametrize(
    ("media_type", "cause"),
    [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "may not be distributed"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "may not be distributed"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "may not be distributed"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", "may not be distributed"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "may not be distributed"),
        (f"{OCI}+gzip+encrypted", "which is not unpacked"),
        (f"{OCI}+encrypted", "which is not unpacked"),
        (f"{OCI}+xz", "which is not unpacked"),
        ("application/vnd.erofs.layer.v1", "which is not unpacked"),
    ],
)
def test_layer_that_cannot_be_unpacked_is_refused(media_type: str, cause: str) -> None:
    with pytest.raises(UnsupportedContentError, match=rf"^reg.example/t/x:v1, layer 1 \(.*\): .*{cause}") as caught:
        planned(image(layer(b"1"), layer(b"2", media_type)))
    assert caught.value.remedy
