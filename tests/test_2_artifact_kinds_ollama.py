"""Ollama: files by type, tensors by name, and the layout that a server reads."""

import json
from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from csi_oras.oci.descriptor import Descriptor
from tests.support.artifacts import DOCKER_MANIFEST, Layer, sha256
from tests.support.planning import HOSTILE, REFERENCE, artifact, named, planned, shown

TYPE = "application/vnd.ollama.image."
CONFIG = Layer(
    content=json.dumps({"model_format": "gguf", "model_family": "llama", "rootfs": {"type": "layers"}}).encode(),
    media_type="application/vnd.docker.container.image.v1+json",
)


def layer(content: bytes, kind: str, name: Any = None) -> Layer:
    return Layer(content=content, media_type=TYPE + kind, claims={} if name is None else {"name": name})


def model(*layers: Layer, reference: str = REFERENCE) -> Any:
    return artifact(layers, CONFIG, reference, media_type=DOCKER_MANIFEST)


def test_layers_are_files_called_after_their_types() -> None:
    kinds = ("model", "projector", "template", "system", "params", "messages", "license", "draft", "prompt", "embed")
    found = model(*(layer(kind.encode(), kind) for kind in kinds))
    assert kind_of(found.manifest).name == "ollama"
    plan = planned(found)
    assert shown(plan) == {
        "model.gguf": (0, "type"),
        "mmproj.gguf": (1, "type"),
        "template": (2, "type"),
        "system": (3, "type"),
        "params.json": (4, "type"),
        "messages.json": (5, "type"),
        "license": (6, "type"),
        "draft.gguf": (7, "type"),
        "prompt": (8, "type"),
        "embed": (9, "type"),
    }
    assert {entry.mode for entry in plan.entries} == {0o444}
    assert plan.archives == ()


def test_several_of_a_type_are_numbered_and_adapters_always() -> None:
    found = model(
        layer(b"m1", "model"), layer(b"m2", "model"), layer(b"a", "adapter"),
        layer(b"l1", "license"), layer(b"l2", "license"),
    )  # fmt: skip
    assert {name: layer for name, (layer, _) in shown(planned(found)).items()} == {
        "model-00001-of-00002.gguf": 0,
        "model-00002-of-00002.gguf": 1,
        "adapter-1.gguf": 2,
        "license-1": 3,
        "license-2": 4,
    }


def test_tensors_and_documents_have_the_names_that_their_layers_give() -> None:
    found = model(
        layer(b"{}", "json", "config.json"),
        layer(b"{ }", "json", "text_encoder/config.json"),
        layer(b"t", "tensor", "text_encoder/model.embed_tokens.weight"),
    )
    assert shown(planned(found)) == {
        "config.json": (0, "name"),
        "text_encoder/config.json": (1, "name"),
        "text_encoder/model.embed_tokens.weight": (2, "name"),
    }


@pytest.mark.parametrize("name", [None, "", 5, ["a"], {"a": "b"}])
def test_tensor_without_a_name_goes_by_its_digest(name: Any) -> None:
    tensor = layer(b"t", "tensor", name)
    assert shown(planned(model(tensor))) == {named(tensor): (0, "digest")}


def test_name_counts_in_layers_of_ollama_only() -> None:
    other = Layer(content=b"o", claims={"name": "../x"})
    assert list(shown(planned(model(layer(b"m", "model", "../x"), other)))) == ["model.gguf", named(other)]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("kind", ["tensor", "json", "new"])
def test_hostile_name_is_refused(text: str, kind: str) -> None:
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, layer 1 \(.*\): name ") as caught:
        planned(model(layer(b"m", "model"), layer(b"t", kind, text)))
    assert caught.value.message.isprintable()


# -- the layout of a server


def test_layout_of_a_server_has_the_manifest_and_each_blob() -> None:
    layers = [layer(b"weights", "model"), layer(b"t", "tensor", "../ignored"), layer(b"params", "params")]
    found = model(*layers, reference="registry.ollama.ai/library/llama3.2:3b")
    plan = planned(found, unpack=False)
    assert {name: layer for name, (layer, _) in shown(plan).items()} == {
        "manifests/registry.ollama.ai/library/llama3.2/3b": None,
        f"blobs/{named(CONFIG)}": None,
        **{f"blobs/{named(each)}": number for number, each in enumerate(layers)},
    }
    assert {rule for _, rule in shown(plan).values()} == {"ollama"}


def test_manifest_of_the_layout_is_the_very_one_and_is_not_fetched() -> None:
    found = model(layer(b"weights", "model"))
    entries = {str(entry.name): entry for entry in planned(found, unpack=False).entries}
    manifest = entries["manifests/reg.example/t/x/v1"]
    assert (manifest.blob.digest, manifest.blob.size, manifest.is_local) == (found.digest, found.size, True)
    assert manifest.blob.media_type == DOCKER_MANIFEST
    fetched = planned(found, unpack=False).blobs
    assert [str(blob.digest) for blob in fetched] == [sha256(CONFIG.content), sha256(b"weights")]


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("localhost:5000/acme/m:v1", "localhost:5000/acme/m/v1"),
        ("[::1]:5000/acme/m:v1", "[::1]:5000/acme/m/v1"),
        ("library/llama3", "docker.io/library/llama3/latest"),
        ("reg.example/m:V_1.0-x", "reg.example/m/V_1.0-x"),
        ("reg.example/a/b/c:v1", "reg.example/a/b/c/v1"),
        (f"reg.example/a/m@{sha256(b'x')}", "reg.example/a/m/latest"),
        (f"reg.example/a/m:v2@{sha256(b'x')}", "reg.example/a/m/v2"),
    ],
)
def test_path_of_the_manifest_is_the_reference(reference: str, path: str) -> None:
    found = planned(model(layer(b"m", "model"), reference=reference), unpack=False)
    assert f"manifests/{path}" in shown(found)


def test_reference_that_is_too_deep_for_a_path_is_refused() -> None:
    found = model(layer(b"m", "model"), reference=f"reg.example/{'a/' * 100}m:v1")
    with pytest.raises(HostileContentError, match=r"manifest path .*deeper than"):
        planned(found, unpack=False)


def test_one_blob_in_two_layers_is_there_once() -> None:
    found = model(layer(b"same", "license"), layer(b"same", "system"))
    assert len(planned(found, unpack=False).entries) == 3


# -- the member that only Ollama writes


def test_descriptor_keeps_the_name_of_a_layer_through_json() -> None:
    document = layer(b"t", "tensor", "a.weight").descriptor()
    parsed = Descriptor.parse(document, "x")
    assert parsed.name == "a.weight"
    assert parsed.to_json() == document
    assert "name" not in Descriptor.parse(layer(b"t", "tensor").descriptor(), "x").to_json()
