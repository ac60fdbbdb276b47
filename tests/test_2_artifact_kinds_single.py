"""Kinds of one file or one tar: SIF, Wasm, Flux."""

from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from csi_oras.oci.plan import Compression
from tests.support.artifacts import Layer, sha256
from tests.support.planning import HOSTILE, artifact, named, planned, shown

BY_DIGEST = f"reg.example/lib/tool@{sha256(b'manifest')}"
TAGGED = "reg.example/lib/tool:3.7"
UNPACK = pytest.mark.parametrize("unpack", [True, False], ids=["auto", "never"])

# -- SIF

SIF = "application/vnd.sylabs.sif.layer.v1.sif"
OLD_SIF = "appliciation/vnd.sylabs.sif.layer.tar"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"


def sif(title: str | None, media_type: str = SIF, reference: str = TAGGED, config: str = SIF_CONFIG) -> Any:
    layer = Layer(content=b"#!/usr/bin/env run-singularity", title=title, media_type=media_type)
    return artifact([layer], Layer(content=b"{}", media_type=config), reference)


@UNPACK
@pytest.mark.parametrize("media_type", [SIF, OLD_SIF], ids=["today's type", "the first type"])
@pytest.mark.parametrize("config", [SIF_CONFIG, "application/vnd.unknown.config.v1+json"])
@pytest.mark.parametrize(
    ("title", "reference", "name", "rule"),
    [
        ("ubuntu_latest.sif", TAGGED, "ubuntu_latest.sif", "title"),
        (None, TAGGED, "tool_3.7.sif", "repository and tag"),
        ("", "localhost:5000/tool:a_b", "tool_a_b.sif", "repository and tag"),
        (None, BY_DIGEST, "tool.sif", "repository and tag"),
    ],
    ids=["title", "tag", "host with a port", "digest"],
)
def test_sif_is_one_executable_file(  # noqa: PLR0917 (each is a parameter of the table)
    title: str | None,
    reference: str,
    name: str,
    rule: str,
    media_type: str,
    config: str,
    unpack: bool,  # noqa: FBT001
) -> None:
    found = sif(title, media_type, reference, config)
    assert kind_of(found.manifest).name == "sif"
    plan = planned(found, unpack=unpack)
    assert [(str(entry.name), entry.layer, entry.rule, entry.mode) for entry in plan.entries] == [
        (name, 0, rule, 0o555)
    ]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_title_of_a_sif_is_refused(text: str) -> None:
    with pytest.raises(HostileContentError, match=r"^reg.example/lib/tool:3.7, layer 0 \(.*\): title "):
        planned(sif(text))


def test_sif_among_other_layers_is_no_image_of_apptainer() -> None:
    layers = [Layer(content=b"1", title="a.sif", media_type=SIF), Layer(content=b"2", title="README")]
    found = artifact(layers, Layer(content=b"{}", media_type=SIF_CONFIG))
    assert kind_of(found.manifest).name == "generic"
    assert list(shown(planned(found))) == ["README", "a.sif"]


# -- Wasm

WASM, OLD_WASM = "application/wasm", "application/vnd.wasm.content.layer.v1+wasm"


@UNPACK
@pytest.mark.parametrize(
    ("media_type", "config"),
    [(WASM, "application/vnd.wasm.config.v0+json"), (OLD_WASM, "application/vnd.wasm.config.v1+json"),
     (WASM, "application/vnd.oci.image.config.v1+json")],
    ids=["CNCF", "older", "in an image"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("title", "name", "rule"), [(None, "tool.wasm", "repository"), ("m/app.wasm", "m/app.wasm", "title")]
)
def test_wasm_is_one_file(  # noqa: PLR0917 (each is a parameter of the table)
    title: str | None,
    name: str,
    rule: str,
    media_type: str,
    config: str,
    unpack: bool,  # noqa: FBT001
) -> None:
    layer = Layer(content=b"\0asm", title=title, media_type=media_type)
    found = artifact([layer], Layer(content=b'{"os":"wasip2"}', media_type=config), TAGGED)
    assert kind_of(found.manifest).name == "wasm"
    plan = planned(found, unpack=unpack)
    assert shown(plan) == {name: (0, rule)}
    assert plan.entries[0].mode == 0o444


def test_one_untitled_module_among_titled_files_has_the_repositorys_name() -> None:
    layers = [
        Layer(content=b"1", title="other.wasm", media_type=WASM),
        Layer(content=b"2", media_type=WASM),
        Layer(content=b"3", title="settings.json", media_type="application/json"),
    ]
    assert shown(planned(artifact(layers, reference=BY_DIGEST))) == {
        "other.wasm": (0, "title"),
        "tool.wasm": (1, "repository"),
        "settings.json": (2, "title"),
    }


def test_two_untitled_modules_go_by_their_digests() -> None:
    layers = [Layer(content=content, media_type=WASM) for content in (b"1", b"2")]
    assert set(shown(planned(artifact(layers)))) == {named(layer) for layer in layers}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_title_of_a_module_is_refused(text: str) -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 \(.*\): title "):
        planned(artifact([Layer(content=b"\0asm", title=text, media_type=WASM)]))


# -- Flux

FLUX = "application/vnd.cncf.flux.content.v1"


def flux(*layers: Layer) -> Any:
    return artifact(layers, Layer(content=b"{}", media_type="application/vnd.cncf.flux.config.v1+json"))


def test_tar_of_flux_is_at_the_root_without_its_links() -> None:
    found = flux(Layer(content=b"tar", media_type=f"{FLUX}.tar+gzip"))
    assert kind_of(found.manifest).name == "flux"
    plan = planned(found)
    (archive,) = plan.archives
    assert (archive.layer, archive.root, archive.compression) == (0, None, Compression.GZIP)
    assert archive.skips_links
    assert not archive.is_image_layer
    assert plan.entries == ()


def test_tar_of_flux_that_is_not_unpacked_is_a_file() -> None:
    layers = [Layer(content=content, media_type=f"{FLUX}.tar+gzip", title=title) for content, title in
              ((b"1", None), (b"2", "deploy"), (b"3", "app.tgz"))]  # fmt: skip
    plan = planned(flux(*layers), unpack=False)
    assert shown(plan) == {
        named(layers[0], ".tar.gz"): (0, "digest, packed"),
        "deploy.tar.gz": (1, "title, packed"),
        "app.tgz": (2, "title, packed"),
    }
    assert plan.archives == ()


@UNPACK
@pytest.mark.parametrize(
    ("extension", "title", "name"),
    [("", None, None), (".json", None, ".json"), (".yaml", None, ".yaml"), (".json", "plan.json", "plan.json")],
)
def test_static_content_is_a_file(
    extension: str,
    title: str | None,
    name: str | None,
    unpack: bool,  # noqa: FBT001
) -> None:
    layer = Layer(content=b"{}", media_type=FLUX + extension, title=title)
    expected = title or named(layer, name or "")
    plan = planned(flux(layer), unpack=unpack)
    assert shown(plan) == {expected: (0, "title" if title else "digest")}


def test_any_other_layer_of_flux_goes_by_its_title() -> None:
    assert shown(planned(flux(Layer(content=b"# doc", title="README.md")))) == {"README.md": (0, "title")}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("ending", [".json", "", ".tar+gzip"])
def test_hostile_title_in_flux_is_refused(text: str, ending: str) -> None:
    found = flux(Layer(content=b"{}", media_type=FLUX + ending, title=text))
    with pytest.raises(HostileContentError, match=r"layer 0 \(.*\): title "):
        planned(found, unpack=False)
