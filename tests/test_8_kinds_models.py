"""Models: ModelPack, Docker Model Runner, KitOps and Ollama, each built to its specification."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.support.artifacts import DOCKER_MANIFEST, EMPTY_TYPE, Layer, Pusher, sha256
from tests.support.calls import refused
from tests.support.kinds import (
    COMPRESSIONS,
    Shown,
    as_volume,
    compressed,
    digest_name,
    file,
    manifest_of,
    plant,
    push,
    shown,
    tar,
    tree,
    typed,
)
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]

_DOCKER = "application/vnd.docker.ai."
_KIT = "application/vnd.kitops.modelkit."
_OLLAMA = "application/vnd.ollama.image."


# -- CNCF ModelPack (modelpack/model-spec: docs/spec.md, docs/annotations.md)


class ModelPack:
    """The specification's names before and since it moved to the CNCF."""

    def __init__(self, organisation: str) -> None:
        self.types = f"application/vnd.{organisation}.model."
        self._annotations = f"org.{organisation}.model."

    def layer(self, content: bytes, kind: str, path: str, **metadata: Any) -> Layer:
        """A layer with its file path and, where there is any, its file's metadata."""
        annotations = {self._annotations + "filepath": path}
        if metadata:
            annotations[self._annotations + "file.metadata+json"] = json.dumps(metadata)
        return Layer(content=content, media_type=self.types + kind, annotations=annotations)

    def push(self, pusher: Pusher, repository: str, layers: list[Layer], diff_ids: list[str]) -> str:
        """Push a model of these layers."""
        document = {"descriptor": {}, "modelfs": {"type": "layers", "diffIds": diff_ids}, "config": {}}
        config = Layer(content=json.dumps(document).encode(), media_type=self.types + "config.v1+json")
        return push(pusher, repository, layers, config, artifactType=self.types + "manifest.v1+json")


@pytest.mark.parametrize("form", list(product(["cncf", "cnai"], COMPRESSIONS)), ids="-".join)
def test_modelpack_shows_files_by_path_and_tars_from_the_root(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, form: tuple[str, str]
) -> None:
    organisation, compression = form
    pack = ModelPack(organisation)
    code = tar(plant(tmp_path / "code"), "code")
    suffix = typed("v1.tar", compression)
    layers = [
        pack.layer(b"weights", "weight.v1.raw", "weights/model.safetensors", mode=0o600, uid=1000, typeflag=48),
        pack.layer(b"{}x", "weight.config.v1.raw", "config.json"),
        pack.layer(b"#!/bin/sh", "code.v1.raw", "run", mode=0o6755, name="run", size=9),
        pack.layer(compressed(code, compression), f"code.{suffix}", "code"),
    ]
    diff_ids = [*(sha256(layer.content) for layer in layers[:-1]), sha256(code)]
    volume.publish(reference=pack.push(pusher, repository, layers, diff_ids))
    run = file(b"#!/bin/sh", executable=True)
    raw: dict[str, bytes | Shown] = {"weights/model.safetensors": b"weights", "config.json": b"{}x", "run": run}
    packed = {f"code/{name}".removesuffix("/."): entry for name, entry in as_volume(tmp_path / "code").items()}
    assert shown(volume.target) == tree(raw) | packed


def test_modelpack_tar_with_another_content_than_the_config_says_is_refused(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    pack = ModelPack("cncf")
    archive = compressed(tar(plant(tmp_path / "code"), "code"), "gzip")
    layers = [pack.layer(archive, "code.v1.tar+gzip", "code")]
    reference = pack.push(pusher, repository, layers, [sha256(b"something else")])
    with refused(grpc.StatusCode.DATA_LOSS, reference, "layer 0", sha256(b"something else")):
        volume.publish(reference=reference)
    assert volume.is_gone()


def test_modelpack_that_is_not_to_be_unpacked_shows_its_tars(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    pack = ModelPack("cncf")
    archive = compressed(tar(plant(tmp_path / "code"), "code"), "zstd")
    layers = [pack.layer(archive, "code.v1.tar+zstd", "code"), pack.layer(b"w", "weight.v1.raw", "w.gguf")]
    volume.publish(reference=pack.push(pusher, repository, layers, []), unpack="never")
    assert shown(volume.target) == tree({"code.tar.zst": archive, "w.gguf": b"w"})


# -- Docker Model Runner (docker/model-runner: pkg/distribution/internal/bundle/unpack.go)


def docker_model(pusher: Pusher, repository: str, layers: list[Layer], version: str) -> str:
    document = {"config": {"format": "gguf"}, "rootfs": {"type": "rootfs", "diff_ids": []}}
    config = Layer(content=json.dumps(document).encode(), media_type=f"{_DOCKER}model.config.{version}+json")
    return push(pusher, repository, layers, config)


def test_docker_model_of_the_first_version_has_the_names_of_its_bundle(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    plant(tmp_path / "tokenizer")
    layers = [
        Layer(content=b"weights", media_type=_DOCKER + "gguf.v3"),
        Layer(content=b"vision", media_type=_DOCKER + "mmproj"),
        Layer(content=b"{{ messages }}", media_type=_DOCKER + "chat.template.jinja"),
        Layer(content=b"free", media_type=_DOCKER + "license"),
        Layer(content=tar(tmp_path / "tokenizer", "tokenizer"), media_type=_DOCKER + "dir.tar"),
    ]
    volume.publish(reference=docker_model(pusher, repository, layers, "v0.1"))
    named = {
        "model.gguf": b"weights", "model.mmproj": b"vision", "template.jinja": b"{{ messages }}", "license": b"free"
    }  # fmt: skip
    assert shown(volume.target) == tree(named) | as_volume(tmp_path)


@pytest.mark.parametrize("kind", ["gguf.v3", "safetensors"])
def test_docker_model_of_several_weights_numbers_its_shards(
    volume: Volume, pusher: Pusher, repository: str, kind: str
) -> None:
    layers = [Layer(content=b"%d" % number, media_type=_DOCKER + kind) for number in range(1, 4)]
    volume.publish(reference=docker_model(pusher, repository, layers, "v0.1"))
    ending = kind.partition(".")[0]
    assert shown(volume.target) == tree({f"model-{n:05d}-of-00003.{ending}": b"%d" % n for n in range(1, 4)})


def test_docker_model_of_the_second_version_has_its_own_paths(volume: Volume, pusher: Pusher, repository: str) -> None:
    named = {"model.safetensors": b"1", "text_encoder/model.safetensors": b"2", "tokenizer/merges.txt": b"3"}
    types = ("safetensors", "safetensors", "model.file")
    layers = [
        Layer(content=content, media_type=_DOCKER + kind, annotations={"org.cncf.model.filepath": path})
        for (path, content), kind in zip(named.items(), types, strict=True)
    ]
    volume.publish(reference=docker_model(pusher, repository, layers, "v0.2"))
    assert shown(volume.target) == tree(named)


# -- KitOps (kitops-ml/kitops: pkg/artifact/kitfile.go, pkg/cmd/unpack/unpack.go)


def kit_layer(archive: bytes, kind: str, compression: str = "") -> Layer:
    return Layer(content=compressed(archive, compression), media_type=_KIT + typed(f"{kind}.v1.tar", compression))


def push_kit(pusher: Pusher, repository: str, layers: list[Layer], kitfile: dict[str, Any]) -> str:
    config = Layer(content=json.dumps(kitfile).encode(), media_type=_KIT + "config.v1+json")
    return push(pusher, repository, layers, config)


def kit_volume(directory: Path, kitfile: dict[str, Any]) -> dict[str, Any]:
    """What a volume shows of a directory that a kit was packed from; a Kitfile is YAML, and so is JSON."""
    return as_volume(directory) | {"Kitfile": file(json.dumps(kitfile).encode())}


@pytest.mark.parametrize("compression", ["", "gzip"], ids=["plain", "gzip"])
def test_kit_is_shown_as_kit_unpacks_it(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path, compression: str
) -> None:
    archives = {name: tar(plant(tmp_path / name, name), name) for name in ("models", "lora", "src", "more", "data")}
    kinds = {"models": "model", "lora": "modelpart", "src": "code", "more": "code", "data": "dataset"}
    layers = {name: kit_layer(archive, kinds[name], compression) for name, archive in archives.items()}
    entry = {
        name: {"path": f"./{name}", "digest": sha256(layers[name].content), "diffId": sha256(archives[name])}
        for name in layers
    }
    kitfile = {
        "manifestVersion": "1.0",
        "package": {"name": "kit"},
        "model": {"name": "m", **entry["models"], "parts": [{"name": "l", "type": "lora", **entry["lora"]}]},
        "code": [entry["src"], entry["more"]],
        "datasets": [{"name": "d", **entry["data"]}],
    }
    volume.publish(reference=push_kit(pusher, repository, list(layers.values()), kitfile))
    assert shown(volume.target) == kit_volume(tmp_path, kitfile)
    assert yaml.safe_load((volume.target / "Kitfile").read_text()) == kitfile


def test_kit_of_an_older_version_is_unpacked_where_its_kitfile_says(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    plant(tmp_path / "models/llama")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("read me")
    kitfile = {"model": {"path": "./models/llama/"}, "docs": [{"path": "docs/README.md"}]}
    layers = [
        kit_layer(tar(tmp_path / "models/llama", "llama"), "model", "gzip"),
        kit_layer(tar(tmp_path / "docs/README.md", "README.md"), "docs"),
    ]
    volume.publish(reference=push_kit(pusher, repository, layers, kitfile))
    assert shown(volume.target) == kit_volume(tmp_path, kitfile)


def test_kit_with_another_layer_than_its_kitfile_says_is_refused(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    layer = kit_layer(tar(plant(tmp_path / "src"), "src"), "code")
    kitfile = {"code": [{"path": "src", "digest": sha256(b"another")}]}
    reference = push_kit(pusher, repository, [layer], kitfile)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, reference, "layer 0"):
        volume.publish(reference=reference)
    assert volume.is_gone()


# -- Ollama (ollama/ollama: manifest/paths.go, types/model/name.go)


def ollama_layers() -> list[Layer]:
    return [
        Layer(content=b"GGUF", media_type=_OLLAMA + "model"),
        Layer(content=b"GGUF vision", media_type=_OLLAMA + "projector"),
        Layer(content=b"GGUF lora", media_type=_OLLAMA + "adapter"),
        Layer(content=b"{{ .Prompt }}", media_type=_OLLAMA + "template"),
        Layer(content=b"be kind", media_type=_OLLAMA + "system"),
        Layer(content=b'{"stop": []}', media_type=_OLLAMA + "params"),
        Layer(content=b"[]", media_type=_OLLAMA + "messages"),
        Layer(content=b"one licence", media_type=_OLLAMA + "license"),
        Layer(content=b"another licence", media_type=_OLLAMA + "license"),
    ]


def ollama_config() -> Layer:
    document = {"model_format": "gguf", "model_family": "llama", "rootfs": {"type": "layers", "diff_ids": []}}
    return Layer(content=json.dumps(document).encode(), media_type="application/vnd.docker.container.image.v1+json")


def test_ollama_model_is_named_by_the_types_of_its_layers(volume: Volume, pusher: Pusher, repository: str) -> None:
    reference = push(pusher, repository, ollama_layers(), ollama_config(), media_type=DOCKER_MANIFEST)
    volume.publish(reference=reference)
    assert shown(volume.target) == tree({
        "model.gguf": b"GGUF", "mmproj.gguf": b"GGUF vision", "adapter-1.gguf": b"GGUF lora",
        "template": b"{{ .Prompt }}", "system": b"be kind", "params.json": b'{"stop": []}', "messages.json": b"[]",
        "license-1": b"one licence", "license-2": b"another licence",
    })  # fmt: skip


def test_ollama_tensors_have_names_of_their_own(volume: Volume, pusher: Pusher, repository: str) -> None:
    layers = [
        Layer(content=b"1", media_type=_OLLAMA + "tensor", claims={"name": "model.layers.0.weight"}),
        Layer(content=b"2", media_type=_OLLAMA + "tensor", claims={"name": "vision/blk.0"}),
        Layer(content=b"{}x", media_type=_OLLAMA + "json", claims={"name": "config.json"}),
    ]
    volume.publish(reference=push(pusher, repository, layers, ollama_config(), media_type=DOCKER_MANIFEST))
    expected = {"model.layers.0.weight": b"1", "vision/blk.0": b"2", "config.json": b"{}x"}
    assert shown(volume.target) == tree(expected)


@pytest.mark.parametrize("tag", ["v1", "latest"])
def test_ollama_model_as_its_server_keeps_it_is_what_ollama_models_points_at(
    volume: Volume, pusher: Pusher, repository: str, tag: str
) -> None:
    layers, config = ollama_layers(), ollama_config()
    reference = push(pusher, repository, layers, config, tag=tag, media_type=DOCKER_MANIFEST)
    manifest, _ = manifest_of(reference)
    volume.publish(reference=reference.removesuffix(":latest"), unpack="never")
    host, namespace, model = f"{pusher.address}/{repository}".split("/")
    blobs = {f"blobs/{digest_name(blob.content)}": blob.content for blob in (config, *layers)}
    assert shown(volume.target) == tree({f"manifests/{host}/{namespace}/{model}/{tag}": manifest, **blobs})


def test_config_that_is_empty_is_no_reason_to_refuse_a_model(volume: Volume, pusher: Pusher, repository: str) -> None:
    layer = ModelPack("cncf").layer(b"w", "weight.v1.raw", "w.gguf")
    config = Layer(content=b"{}", media_type=EMPTY_TYPE)
    artifact_type = "application/vnd.cncf.model.manifest.v1+json"
    volume.publish(reference=push(pusher, repository, [layer], config, artifactType=artifact_type))
    assert shown(volume.target) == tree({"w.gguf": b"w"})
