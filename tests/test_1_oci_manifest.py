"""Manifests, indexes and the JSON that they are made of: read with limits, and never in two ways."""

import json
from typing import Any

import pytest

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
    UnsupportedContentError,
)
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Index, Manifest, parse
from tests.support.artifacts import DOCKER_MANIFEST, EMPTY_TYPE, OCI_INDEX, OCI_MANIFEST, Layer, manifest

SUBJECT = "reg.example/t/x:v1"
LAYER = Layer(content=b"alpha", title="a")
MOST = 10


def read(content: bytes, declared: str = "") -> Manifest | Index:
    return parse(content, declared, SUBJECT, most_layers=MOST)


def read_manifest(**changes: Any) -> Manifest:
    found = read(manifest([LAYER], **changes))
    assert isinstance(found, Manifest)
    return found


def claiming(**claims: Any) -> bytes:
    """A manifest whose one layer claims something else."""
    return manifest([Layer(content=b"alpha", title="a", claims=claims)])


def changed(**members: Any) -> bytes:
    """A manifest in which some members are something else."""
    return json.dumps({**json.loads(manifest([LAYER])), **members}).encode()


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_manifest_of_either_kind_has_its_config_and_layers(media_type: str) -> None:
    found = read(manifest([LAYER, LAYER], media_type=media_type))
    assert isinstance(found, Manifest)
    assert found.media_type == media_type
    assert found.config == Descriptor.of(b"{}", EMPTY_TYPE)
    assert [layer.digest for layer in found.layers] == [Digest.of(b"alpha")] * 2
    assert dict(found.layers[0].annotations) == {media_types.TITLE: "a"}


def test_manifest_artifact_type_is_its_own_or_that_of_its_config() -> None:
    assert read_manifest(artifactType="a/b").artifact_type == "a/b"
    assert read_manifest().artifact_type == EMPTY_TYPE
    config = Layer(content=b"{}", media_type="application/vnd.acme.config+json")
    assert read_manifest(config=config).artifact_type == "application/vnd.acme.config+json"


@pytest.mark.parametrize("declared", [OCI_MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST.upper(), ""])
def test_manifest_without_a_media_type_has_the_one_that_was_declared(declared: str) -> None:
    document = json.loads(manifest([LAYER]))
    del document["mediaType"]
    found = read(json.dumps(document).encode(), declared)
    assert isinstance(found, Manifest)
    assert found.media_type == OCI_MANIFEST


def test_index_without_a_media_type_anywhere_is_an_index() -> None:
    assert isinstance(read(b'{"schemaVersion":2,"manifests":[]}'), Index)


def test_manifest_media_type_of_its_own_wins_over_the_declared_one() -> None:
    assert isinstance(read(manifest([LAYER]), OCI_INDEX), Manifest)


@pytest.mark.parametrize("layers", [[], [Layer(content=b"")], [Layer(content=b"{}", media_type=EMPTY_TYPE)]])
def test_manifest_of_nothing_is_read(layers: list[Layer]) -> None:
    found = read(manifest(layers))
    assert isinstance(found, Manifest)
    assert len(found.layers) == len(layers)


@pytest.mark.parametrize("layers", [None, {}, "x", 5, [None], ["x"], [[]], [5]], ids=repr)
def test_manifest_with_layers_that_are_none_is_hostile(layers: object) -> None:
    with pytest.raises(HostileContentError, match='"layers" is not a list of objects'):
        read(changed(layers=layers))


@pytest.mark.parametrize("config", [None, [], "x", 5, {}, {"digest": "x"}], ids=repr)
def test_manifest_without_a_config_is_hostile(config: object) -> None:
    with pytest.raises(HostileContentError, match="config"):
        read(changed(config=config))


BAD_DIGESTS: list[object] = [
    "../../../../../../../../canary/preload",
    "sha256:../../../../canary/x",
    *("sha256", ":", "sha256:", "sha256:zz", "", None, 5, [], {}),
    *("sha256:" + "A" * 64, "SHA256:" + "a" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65),
    *("sha512:" + "a" * 64, "sha256:" + "a" * 64 + "\r\nHost: x", "sha256:..%2f"),
]


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=ascii)
def test_descriptor_with_a_digest_that_is_none_is_hostile_in_a_layer_and_in_the_config(digest: object) -> None:
    with pytest.raises(HostileContentError, match=f"{SUBJECT}, layer 0: "):
        read(claiming(digest=digest))
    with pytest.raises(HostileContentError, match=f"{SUBJECT}, config: "):
        read(manifest([LAYER], config=Layer(content=b"{}", claims={"digest": digest})))


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "blake3", "multihash+base58"])
def test_descriptor_with_a_digest_of_another_algorithm_is_unsupported(algorithm: str) -> None:
    with pytest.raises(UnsupportedContentError, match=f"{SUBJECT}, layer 0: .*{algorithm[:5]}.*use sha256"):
        read(claiming(digest=f"{algorithm}:{'a' * 32}"))


@pytest.mark.parametrize(
    "size", [-1, 2**53 + 1, 2**62, 2**64, 12.0, 1e3, "12", "", True, False, None, [], {}], ids=repr
)
def test_descriptor_with_a_size_that_is_none_is_hostile(size: object) -> None:
    with pytest.raises(HostileContentError, match='layer 0: "size" is not a size'):
        read(claiming(size=size))


@pytest.mark.parametrize("literal", ["1e999", "-0.0", "1.5", "5e0"])
def test_descriptor_with_a_size_in_another_spelling_is_hostile(literal: str) -> None:
    content = claiming(size=424242).replace(b"424242", literal.encode())
    with pytest.raises(HostileContentError, match='"size" is not a size'):
        read(content)


@pytest.mark.parametrize("size", [0, 1, 2**53])
def test_descriptor_size_is_what_it_says(size: int) -> None:
    found = read(claiming(size=size))
    assert isinstance(found, Manifest)
    assert found.layers[0].size == size


NO_MEDIA_TYPES: list[object] = [
    *("", None, 5, "x", "a/", "/b", "a/b/c", "a/b; c=d", "a b/c"),
    *("\u00e4/b", "a/b\r\nX: y", "a/" + "b" * 200),
]


@pytest.mark.parametrize("media_type", NO_MEDIA_TYPES, ids=ascii)
def test_descriptor_with_a_media_type_that_is_none_is_hostile(media_type: object) -> None:
    with pytest.raises(HostileContentError, match='layer 0: "mediaType"'):
        read(claiming(mediaType=media_type))


@pytest.mark.parametrize("annotations", [[], "x", 5, {"a": 5}, {"a": None}, {"a": {"b": "c"}}], ids=repr)
def test_descriptor_with_annotations_that_are_none_is_hostile(annotations: object) -> None:
    with pytest.raises(HostileContentError, match='"annotations" is not a map of strings'):
        read(claiming(annotations=annotations))


def test_descriptor_without_annotations_has_none() -> None:
    found = read(claiming(annotations=None))
    assert isinstance(found, Manifest)
    assert found.layers[0].annotations == {}


def test_descriptor_urls_and_data_are_not_even_kept() -> None:
    found = read(claiming(urls=["http://169.254.169.254/", "file:///canary"], data="ZXZpbA=="))
    assert isinstance(found, Manifest)
    assert found.layers[0] == Descriptor.of(b"alpha", LAYER.media_type, {media_types.TITLE: "a"})


# -- other documents


def test_manifest_and_index_at_once_is_hostile() -> None:
    nothings: tuple[object, ...] = ([], None)
    for manifests in nothings:
        with pytest.raises(HostileContentError, match="a manifest and an index at once"):
            read(changed(manifests=manifests))


@pytest.mark.parametrize(
    ("media_type", "version"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", 1),
        ("application/vnd.docker.distribution.manifest.v1+json", 2),
        (OCI_MANIFEST, 1),
    ],
)
def test_manifest_of_schema_1_is_unsupported(media_type: str, version: int) -> None:
    with pytest.raises(UnsupportedContentError, match="schema 1"):
        read(manifest([LAYER], media_type=media_type, schemaVersion=version))
    with pytest.raises(UnsupportedContentError, match="schema 1"):
        read(json.dumps({"schemaVersion": version, "fsLayers": []}).encode(), media_type)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/octet-stream",
        "application/vnd.cncf.helm.config.v1+json",
        "text/html",
        "application/vnd.oci.artifact.manifest.v1+json",
    ],
)
def test_document_of_another_media_type_is_unsupported_and_named(media_type: str) -> None:
    with pytest.raises(UnsupportedContentError, match="which cannot be mounted") as caught:
        read(manifest([LAYER], media_type=media_type))
    assert media_type in caught.value.message


def test_layers_up_to_the_limit_are_read_and_one_more_is_refused() -> None:
    assert read(manifest([LAYER] * MOST))
    with pytest.raises(LimitExceededError, match="has 11 layers, more than the 10"):
        read(manifest([LAYER] * (MOST + 1)))
