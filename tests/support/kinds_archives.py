"""One directory as each kind packs it: whatever selects among names has to do so for every kind of archive."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.artifacts import DOCKER_MANIFEST, EMPTY_TYPE, Layer, Pusher, sha256
from tests.support.kinds import compressed, push, tar, typed

DIRECTORY = "tree"
"""What the packed directory is called, so that every name begins with it."""

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
_MODELPACK = "application/vnd.cncf.model."
_MODEL_RUNNER = "application/vnd.docker.ai."
_KIT = "application/vnd.kitops.modelkit."
_FLUX = "application/vnd.cncf.flux."


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What an artifact is made of: its layers, its config, and its manifest's media type where that is not OCI's."""

    layers: list[Layer]
    config: Layer = field(default_factory=lambda: Layer(content=b"{}", media_type=EMPTY_TYPE))
    media_type: str = "application/vnd.oci.image.manifest.v1+json"

    def push(self, pusher: Pusher, repository: str) -> str:
        """Push it, and return its reference."""
        return push(pusher, repository, self.layers, self.config, media_type=self.media_type)


def oras_directory(title: str, archive: bytes, content_digest: str | None = None) -> Layer:
    """A directory as `oras push` packs it."""
    annotations = {
        "io.deis.oras.content.unpack": "true",
        "io.deis.oras.content.digest": content_digest or sha256(archive),
    }
    content, media_type = compressed(archive, "gzip"), _OCI + "layer.v1.tar+gzip"
    return Layer(content=content, title=title, media_type=media_type, annotations=annotations)


def _oras(archive: bytes) -> Packed:
    return Packed(layers=[oras_directory(DIRECTORY, archive)])


def _oras_py(archive: bytes) -> Packed:
    content = compressed(archive, "gzip")
    return Packed(layers=[Layer(content=content, title=DIRECTORY, media_type=_OCI + "layer.v1.tar+gzip")])


def _modelpack(archive: bytes, compression: str) -> Packed:
    document = {"modelfs": {"type": "layers", "diffIds": [sha256(archive)]}}
    layer = Layer(
        content=compressed(archive, compression),
        media_type=_MODELPACK + typed("weight.v1.tar", compression),
        annotations={"org.cncf.model.filepath": DIRECTORY},
    )
    return Packed(layers=[layer], config=_json(document, _MODELPACK + "config.v1+json"))


def _model_runner(archive: bytes) -> Packed:
    config = _json({"config": {"format": "gguf"}}, _MODEL_RUNNER + "model.config.v0.1+json")
    return Packed(layers=[Layer(content=archive, media_type=_MODEL_RUNNER + "dir.tar")], config=config)


def _kit(archive: bytes) -> Packed:
    content = compressed(archive, "gzip")
    kitfile = {"code": [{"path": DIRECTORY, "digest": sha256(content), "diffId": sha256(archive)}]}
    layer = Layer(content=content, media_type=_KIT + "code.v1.tar+gzip")
    return Packed(layers=[layer], config=_json(kitfile, _KIT + "config.v1+json"))


def _flux(archive: bytes) -> Packed:
    layer = Layer(content=compressed(archive, "gzip"), media_type=_FLUX + "content.v1.tar+gzip")
    return Packed(layers=[layer], config=_json({}, _FLUX + "config.v1+json"))


def image(archives: list[bytes], *, architecture: str = "amd64") -> Packed:
    """An image of these layers."""
    layers = [Layer(content=compressed(archive, "gzip"), media_type=_OCI + "layer.v1.tar+gzip") for archive in archives]
    return Packed(layers=layers, config=_image_config(archives, _OCI + "config.v1+json", architecture))


def _docker_image(archive: bytes) -> Packed:
    layer = Layer(content=compressed(archive, "gzip"), media_type=_DOCKER + "image.rootfs.diff.tar.gzip")
    config = _image_config([archive], _DOCKER + "container.image.v1+json", "amd64")
    return Packed(layers=[layer], config=config, media_type=DOCKER_MANIFEST)


def _image_config(archives: list[bytes], media_type: str, architecture: str) -> Layer:
    diff_ids = [sha256(archive) for archive in archives]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return _json({"architecture": architecture, "os": "linux", "rootfs": rootfs}, media_type)


def _json(document: object, media_type: str) -> Layer:
    return Layer(content=json.dumps(document).encode(), media_type=media_type)


PACKERS: dict[str, Callable[[bytes], Packed]] = {
    "oras": _oras,
    "oras-py": _oras_py,
    "modelpack": lambda archive: _modelpack(archive, ""),
    "modelpack zstd": lambda archive: _modelpack(archive, "zstd"),
    "docker model": _model_runner,
    "kit": _kit,
    "flux": _flux,
    "image": lambda archive: image([archive]),
    "docker image": _docker_image,
}


def pack(kind: str, directory: Path) -> Packed:
    """Pack a directory as `DIRECTORY`, as a kind does."""
    return PACKERS[kind](tar(directory, DIRECTORY))
