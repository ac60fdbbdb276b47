"""Artifacts around the corpus' shapes: what carries a hostile name or archive to the driver."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.support import tars
from tests.support.artifacts import EMPTY_TYPE, FILE_TYPE, OCI_INDEX, OCI_MANIFEST, Layer, sha256
from tests.support.tars import Description

MODELPACK_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODELPACK_RAW = "application/vnd.cncf.model.weight.v1.raw"
FILEPATH = "org.cncf.model.filepath"
KITOPS_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {"": bytes, "+gzip": tars.gzip, "+zstd": tars.zstd}
CONTENT = b"content"


def _config(media_type: str, document: Any) -> Layer:
    return Layer(content=json.dumps(document).encode(), media_type=media_type)


def titled(title: str | None) -> dict[str, Any]:
    """A file under its title, as ORAS pushes it."""
    return {"layers": [Layer(content=CONTENT, title=title)]}


def by_filepath(title: str | None) -> dict[str, Any]:
    """A weight under its file path, as ModelPack has it."""
    annotations = {} if title is None else {FILEPATH: title}
    layer = Layer(content=CONTENT, media_type=MODELPACK_RAW, annotations=annotations)
    return {"layers": [layer], "config": _config(MODELPACK_CONFIG, {})}


def by_both(title: str | None) -> dict[str, Any]:
    """A weight with a file path and a title."""
    annotations = {} if title is None else {FILEPATH: title}
    layer = Layer(content=CONTENT, title=title, media_type=MODELPACK_RAW, annotations=annotations)
    return {"layers": [layer], "config": _config(MODELPACK_CONFIG, {})}


def by_ollama_name(title: str | None) -> dict[str, Any]:
    """A tensor under its name, as newer Ollama models have it."""
    claims = {} if title is None else {"name": title}
    layer = Layer(content=CONTENT, media_type="application/vnd.ollama.image.tensor", claims=claims)
    return {"layers": [layer], "config": _config(DOCKER_CONFIG, {})}


def by_member(title: str | None) -> dict[str, Any]:
    """A member of a model's tar."""
    return archive([{"name": "x", "content": "content", "pax": {"path": title}}])


def by_kitfile(title: str | None) -> dict[str, Any]:
    """A layer of an older ModelKit, which begins in the directory of the Kitfile's path."""
    layer = Layer(content=tars.tar([{"name": "m"}]), media_type="application/vnd.kitops.modelkit.model.v1.tar")
    return {"layers": [layer], "config": _config(KITOPS_CONFIG, {"model": {"path": title}})}


CARRIERS: Mapping[str, Callable[[str | None], dict[str, Any]]] = {
    "title": titled,
    "filepath": by_filepath,
    "both": by_both,
    "ollama": by_ollama_name,
    "member": by_member,
    "kitfile": by_kitfile,
}
"""What may carry a name."""


def archive(members: Sequence[Description], compression: str = "", end: int = 2) -> dict[str, Any]:
    """An archive whose members begin at the volume's root: ModelPack's."""
    content = COMPRESSIONS[compression](tars.tar(members, end=bytes(end * tars.BLOCK)))
    return packed([content], compression)


def packed(contents: Sequence[bytes], compression: str) -> dict[str, Any]:
    """The same of bytes, whatever they are."""
    media_type = f"application/vnd.cncf.model.weight.v1.tar{compression}"
    layers = [Layer(content=content, media_type=media_type) for content in contents]
    return {"layers": layers, "config": _config(MODELPACK_CONFIG, {})}


def packed_image(contents: Sequence[bytes], compression: str) -> dict[str, Any]:
    """An image of bytes, whatever they are; without compression its config may say so."""
    media_type = f"application/vnd.oci.image.layer.v1.tar{compression}"
    rootfs = {"type": "layers", "diff_ids": [sha256(content) for content in contents]}
    layers = [Layer(content=content, media_type=media_type) for content in contents]
    return {"layers": layers, "config": _config(IMAGE_CONFIG, {"rootfs": rootfs})}


def image(layers: Sequence[Sequence[Description]], compression: str = "", end: int = 2) -> dict[str, Any]:
    """An image of a layer for each list of members."""
    contents = [tars.tar(members, end=bytes(end * tars.BLOCK)) for members in layers]
    pack = COMPRESSIONS[compression]
    media_type = f"application/vnd.oci.image.layer.v1.tar{compression}"
    rootfs = {"type": "layers", "diff_ids": [sha256(content) for content in contents]}
    return {
        "layers": [Layer(content=pack(content), media_type=media_type) for content in contents],
        "config": _config(IMAGE_CONFIG, {"architecture": "amd64", "os": "linux", "rootfs": rootfs}),
    }


def image_of_one(members: Sequence[Description], compression: str = "", end: int = 2) -> dict[str, Any]:
    """An image of one layer."""
    return image([members], compression, end)


def document(shape: Mapping[str, Any]) -> tuple[bytes, dict[str, bytes], str]:
    """Return a manifest by a row's shape, the blobs that go with it, and its media type."""
    layers = [Layer(content=text.encode(), title=title) for title, text in shape.get("layers", [["x", "content"]])]
    blobs = {sha256(content): content for content in (b"{}", CONTENT, *(layer.content for layer in layers))}
    config = MODELPACK_CONFIG if shape.get("kind") == "modelpack" else EMPTY_TYPE
    honest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Layer(content=b"{}", media_type=config).descriptor(),
        "layers": [layer.descriptor() for layer in layers] * shape.get("repeat_layer", 1),
    }
    media_type = shape.get("type", OCI_MANIFEST)
    if shape.get("kind") == "modelpack":
        honest["layers"][0]["mediaType"] = MODELPACK_RAW
    content = _bent(honest, shape)
    if "sha512" in str(shape):
        blobs["sha512:" + hashlib.sha512(CONTENT).hexdigest()] = CONTENT
    return content, blobs, media_type


def _bent(honest: dict[str, Any], shape: Mapping[str, Any]) -> bytes:
    if "manifest" in shape:
        return bytes.fromhex(shape["manifest"])
    if "raw" in shape:
        return "".join(shape["raw"]).encode()
    if "latin1" in shape:
        return str(shape["latin1"]).encode("latin-1")
    for path, value in shape.get("set", {}).items():
        _assign(honest, path, value)
    for path in shape.get("unset", []):
        holder, last = _reach(honest, path)
        del holder[last]
    text = json.dumps(honest)
    words = {
        "hex": sha256(CONTENT)[7:],
        "HEX": sha256(CONTENT)[7:].upper(),
        "hex512": hashlib.sha512(CONTENT).hexdigest(),
    }
    for found, by in shape.get("replace", []):
        wanted, given = (_worded(item, words) for item in (found, by))
        assert wanted in _worded(text, words), wanted
        text = _worded(text, words).replace(wanted, given, 1)
    padding = " " * int(shape.get("pad", 0))
    return (_worded(text, words) + padding).encode()


def _worded(text: str, words: Mapping[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace("{" + word + "}", meaning)
    return text


def _reach(document: Any, path: str) -> tuple[Any, Any]:
    """Return what holds the member at a path, and its key there; an annotation's name may hold dots."""
    *above, last = path.split(".", 3) if "annotations." in path else path.split(".")
    for part in above:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, int(last) if isinstance(document, list) else last


def _assign(document: dict[str, Any], path: str, value: Any) -> None:
    holder, last = _reach(document, path)
    if isinstance(holder, list) and last == len(holder):
        holder.append(value)
    else:
        holder[last] = value


def index(entries: Sequence[Mapping[str, Any]], manifest: bytes, architecture: str) -> tuple[bytes, dict[str, bytes]]:
    """Return an index of a row's entries, each of which leads to `manifest`, and the documents on the way."""
    documents = {}
    found = []
    for entry in entries:
        claims = json.loads(json.dumps(dict(entry)).replace("{arch}", architecture))
        held, media_type = manifest, OCI_MANIFEST
        if claims.pop("file", None):
            other = Layer(content=str(entry["file"]).encode(), title=str(entry["file"]))
            held = json.dumps({**json.loads(manifest), "layers": [other.descriptor()]}).encode()
        for _ in range(claims.pop("nested", 0)):
            inner = {"mediaType": media_type, "digest": sha256(held), "size": len(held), "platform": claims["platform"]}
            documents[sha256(held)] = held
            held = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner]}).encode()
            media_type = OCI_INDEX
        documents[sha256(held)] = held
        found.append({"mediaType": media_type, "digest": sha256(held), "size": len(held), **claims})
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).encode(), documents


def of_parts(shape: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact of any kind by a row's parts; texts may name the digests of tars and layers: {tar0}, {layer0}."""
    digests: dict[str, str] = {}
    made = []
    for number, part in enumerate(shape["parts"]):
        content = tars.tar(part["tar"]) if "tar" in part else str(part["text"]).encode()
        held = COMPRESSIONS[part.get("compression", "")](content)
        digests |= {f"tar{number}": sha256(content), f"layer{number}": sha256(held)}
        made.append((part, held))
    config = _worded(json.dumps(shape.get("config", {})), digests)
    layers = [
        Layer(
            content=held,
            title=part.get("title"),
            media_type=part.get("type", FILE_TYPE),
            annotations={key: _worded(value, digests) for key, value in part.get("annotations", {}).items()},
            claims={key: part[key] for key in ("name",) if key in part},
        )
        for part, held in made
    ]
    text = str(shape["raw_config"]) if "raw_config" in shape else config
    media_type = shape.get("config_type", EMPTY_TYPE)
    return {"layers": layers, "config": Layer(content=text.encode(), media_type=media_type)}
