"""Docker Model Runner: the names that its version 0.1 gives by type, and the file paths of 0.2."""

from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from csi_oras.oci.plan import Compression
from tests.support.artifacts import TITLE, Layer
from tests.support.planning import HOSTILE, artifact, named, planned, shown

TYPE = "application/vnd.docker.ai."
PATH = "org.cncf.model.filepath"


def layer(content: bytes, kind: str, path: str | None = None, **annotations: str) -> Layer:
    paths = {} if path is None else {PATH: path}
    return Layer(content=content, media_type=TYPE + kind, annotations={**paths, **annotations})


def model(*layers: Layer, version: str = "v0.1", **members: Any) -> Any:
    config = Layer(content=b'{"config":{"format":"gguf"}}', media_type=f"{TYPE}model.config.{version}+json")
    return artifact(layers, config, **members)


def test_first_version_names_files_by_their_type() -> None:
    found = model(
        layer(b"weights", "gguf.v3"),
        layer(b"projector", "mmproj"),
        layer(b"template", "chat.template.jinja"),
        layer(b"licence", "license"),
        layer(b"lora", "gguf.v3.lora"),
    )
    assert kind_of(found.manifest).name == "docker-model"
    plan = planned(found)
    assert shown(plan) == {
        "model.gguf": (0, "type"),
        "model.mmproj": (1, "type"),
        "template.jinja": (2, "type"),
        "license": (3, "type"),
        "adapter-1.gguf": (4, "type"),
    }
    assert {entry.mode for entry in plan.entries} == {0o444}


@pytest.mark.parametrize(("kind", "suffix"), [("gguf.v3", "gguf"), ("safetensors", "safetensors")])
def test_weights_in_parts_are_numbered_in_the_order_of_the_layers(kind: str, suffix: str) -> None:
    found = model(layer(b"1", kind), layer(b"t", "chat.template.jinja"), layer(b"2", kind), layer(b"3", kind))
    assert shown(planned(found)) == {
        f"model-00001-of-00003.{suffix}": (0, "type"),
        f"model-00002-of-00003.{suffix}": (2, "type"),
        f"model-00003-of-00003.{suffix}": (3, "type"),
        "template.jinja": (1, "type"),
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [("safetensors", "model.safetensors"), ("dduf", "model.dduf"), ("gguf.v3.mmproj", "model.mmproj")],
)
def test_single_file_of_a_type_has_no_number(kind: str, name: str) -> None:
    assert list(shown(planned(model(layer(b"1", kind))))) == [name]


def test_several_licences_are_numbered() -> None:
    found = model(layer(b"w", "gguf.v3"), layer(b"1", "license"), layer(b"2", "license"))
    assert list(shown(planned(found))) == ["license-1", "license-2", "model.gguf"]


def test_first_version_keeps_paths_of_all_but_what_the_runner_looks_for_by_name() -> None:
    found = model(
        layer(b"1", "gguf.v3", "llama-q4.gguf"),
        layer(b"2", "mmproj", "projector.gguf"),
        layer(b"3", "chat.template.jinja", "chat.jinja"),
        layer(b"4", "safetensors", "text/model.safetensors"),
        layer(b"5", "model.file", "tokenizer/config.json"),
        layer(b"6", "license", "LICENSE.txt"),
    )
    assert shown(planned(found)) == {
        "model.gguf": (0, "type"),
        "model.mmproj": (1, "type"),
        "template.jinja": (2, "type"),
        "text/model.safetensors": (3, "filepath"),
        "tokenizer/config.json": (4, "filepath"),
        "LICENSE.txt": (5, "filepath"),
    }


@pytest.mark.parametrize("kind", ["vllm.config.tar", "dir.tar"])
def test_tars_of_the_first_version_are_unpacked_without_their_links(kind: str) -> None:
    found = model(layer(b"w", "safetensors"), layer(b"tar", kind, "config"))
    plan = planned(found)
    (archive,) = plan.archives
    assert (archive.layer, archive.compression, archive.root, archive.skips_links) == (1, Compression.NONE, None, True)
    assert list(shown(plan)) == ["model.safetensors"]
    packed = planned(found, unpack=False)
    assert shown(packed)["config.tar"] == (1, "filepath, packed")
    assert packed.archives == ()


def test_tar_without_a_path_stays_packed_under_its_digest() -> None:
    tar = layer(b"tar", "dir.tar")
    assert shown(planned(model(tar), unpack=False)) == {named(tar, ".tar"): (0, "digest, packed")}


def test_second_version_puts_each_layer_at_its_path_and_unpacks_none() -> None:
    found = model(
        layer(b"1", "safetensors", "text_encoder/model.safetensors"),
        layer(b"2", "safetensors", "vae/model.safetensors"),
        layer(b"3", "gguf.v3", "q4.gguf"),
        layer(b"4", "model.file", "data.tar"),
        layer(b"5", "dir.tar", "more/dir.tar"),
        version="v0.2",
    )
    assert kind_of(found.manifest).name == "docker-model"
    for unpack in (True, False):
        plan = planned(found, unpack=unpack)
        assert shown(plan) == {
            "text_encoder/model.safetensors": (0, "filepath"),
            "vae/model.safetensors": (1, "filepath"),
            "q4.gguf": (2, "filepath"),
            "data.tar": (3, "filepath"),
            "more/dir.tar": (4, "filepath"),
        }
        assert plan.archives == ()


@pytest.mark.parametrize(("version", "kind"), [("v0.1", "model.file"), ("v0.2", "gguf.v3")])
def test_layer_that_nothing_names_goes_by_its_title_and_then_by_its_digest(version: str, kind: str) -> None:
    layers = [layer(b"1", kind, **{TITLE: "t.bin"}), layer(b"2", kind, "")]
    assert shown(planned(model(*layers, version=version))) == {"t.bin": (0, "title"), named(layers[1]): (1, "digest")}


def test_kind_of_the_config_wins_over_the_types_of_the_layers() -> None:
    raw = Layer(content=b"1", media_type="application/vnd.cncf.model.weight.v1.raw", annotations={PATH: "a"})
    found = model(raw, version="v0.2", artifactType="application/vnd.cncf.model.manifest.v1+json")
    assert kind_of(found.manifest).name == "docker-model"
    assert list(shown(planned(found))) == ["a"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(
    ("version", "kind"), [("v0.2", "model.file"), ("v0.1", "safetensors"), ("v0.1", "gguf.v3"), ("v0.1", "dir.tar")]
)
def test_hostile_path_is_refused(text: str, version: str, kind: str) -> None:
    for unpack in (True, False):
        with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, layer 0 \(.*\): filepath ") as caught:
            planned(model(layer(b"x", kind, text), version=version), unpack=unpack)
        assert caught.value.message.isprintable()


@pytest.mark.parametrize("version", ["v0.1", "v0.2"])
def test_two_paths_that_differ_are_refused(version: str) -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 .*filepath differ"):
        planned(model(layer(b"x", "model.file", "a", **{"org.cnai.model.filepath": "b"}), version=version))
