"""Indexes: which of their manifests a node gets, by a rule that gives the same one every time."""

import json
from typing import Any

import pytest

from csi_oras.errors import (
    HostileContentError,
    LimitExceededError,
    UnsupportedContentError,
)
from csi_oras.oci import media_types
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Index, Manifest, parse
from csi_oras.oci.platform import Platform
from tests.support.artifacts import OCI_INDEX, OCI_MANIFEST, Layer

SUBJECT = "reg.example/t/x:v1"
LAYER = Layer(content=b"alpha", title="a")


def read(content: bytes, declared: str = "") -> Manifest | Index:
    return parse(content, declared, SUBJECT, most_layers=10)


def index(entries: list[dict[str, Any]], media_type: str = OCI_INDEX) -> bytes:
    described = [
        {**Layer(content=str(number).encode(), media_type=OCI_MANIFEST).descriptor(), **entry}
        for number, entry in enumerate(entries)
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": described}).encode()


def on(text: str) -> dict[str, Any]:
    """An entry for a platform."""
    parts = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
    return {"platform": parts}


ATTESTATION = {**on("unknown/unknown"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
MARKED = {**on("linux/amd64"), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}

CHOICES: dict[str, tuple[str, list[dict[str, Any]], int | None]] = {
    "the only one": ("linux/amd64", [on("linux/amd64")], 0),
    "by architecture": ("linux/arm64", [on("linux/amd64"), on("linux/arm64")], 1),
    "by system": ("linux/amd64", [on("windows/amd64"), on("linux/amd64")], 1),
    "by variant": ("linux/arm/v7", [on("linux/arm/v6"), on("linux/arm/v7")], 1),
    "the first of duplicates": ("linux/amd64", [on("linux/amd64"), on("linux/amd64")], 0),
    "no variant before another one": ("linux/amd64", [on("linux/amd64/v3"), on("linux/amd64")], 1),
    "a variant where none was asked for": ("linux/arm64", [on("linux/arm64/v8")], 0),
    "none where a variant was asked for": ("linux/arm64/v8", [on("linux/arm64")], 0),
    "never another variant than asked for": ("linux/arm/v6", [on("linux/arm/v7")], None),
    "never another architecture": ("linux/arm64", [on("linux/amd64")], None),
    "the only one without a platform": ("linux/arm64", [on("linux/amd64"), {}], 1),
    "none of several without a platform": ("linux/amd64", [{}, {}], None),
    "the platform's own before none": ("linux/amd64", [{}, on("linux/amd64")], 1),
    "an artifact alone": ("linux/amd64", [{"artifactType": "a/b"}], 0),
    "never an attestation": ("linux/amd64", [ATTESTATION], None),
    "never an attestation for the platform": ("linux/amd64", [MARKED], None),
    "the image beside its attestation": ("linux/amd64", [ATTESTATION, MARKED, on("linux/amd64")], 2),
    "not unknown when unknown is asked for": ("unknown/unknown", [on("unknown/unknown")], None),
    "nothing of nothing": ("linux/amd64", [], None),
}


@pytest.mark.parametrize("media_type", [OCI_INDEX, media_types.DOCKER_MANIFEST_LIST])
@pytest.mark.parametrize(("wanted", "entries", "chosen"), CHOICES.values(), ids=CHOICES.keys())
def test_index_chooses_by_rule(wanted: str, entries: list[dict[str, Any]], chosen: int | None, media_type: str) -> None:
    found = read(index(entries, media_type))
    assert isinstance(found, Index)
    if chosen is None:
        with pytest.raises(UnsupportedContentError, match=f"{SUBJECT}: has no manifest for platform {wanted}"):
            found.select(Platform.parse(wanted), SUBJECT)
    else:
        assert found.select(Platform.parse(wanted), SUBJECT).digest == Digest.of(str(chosen).encode())


def test_index_without_the_platform_lists_what_there_is() -> None:
    found = read(index([on("linux/s390x"), on("linux/arm/v7"), on("linux/s390x"), ATTESTATION]))
    assert isinstance(found, Index)
    with pytest.raises(UnsupportedContentError, match=r"\(there are: linux/arm/v7, linux/s390x\); set platform"):
        found.select(Platform.parse("linux/amd64"), SUBJECT)


NO_PLATFORMS = [[], "linux/amd64", {"os": 5}, {"os": "linux", "architecture": None, "variant": []}]


@pytest.mark.parametrize("platform", NO_PLATFORMS, ids=repr)
def test_index_with_a_platform_that_is_none_is_hostile(platform: object) -> None:
    with pytest.raises(HostileContentError, match="entry 0"):
        read(index([{"platform": platform}]))


def test_index_entries_up_to_the_limit_are_read_and_one_more_is_refused() -> None:
    assert read(index([{}] * 10))
    with pytest.raises(LimitExceededError, match="has 11 manifests, more than the 10"):
        read(index([{}] * 11))
