"""KitOps ModelKits: the Kitfile, the tars of newer and of older kits, and what a Kitfile may not say."""

import json
from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Compression
from tests.support.artifacts import TITLE, Layer, sha256
from tests.support.planning import HOSTILE, artifact, named, planned, shown

CONFIG = "application/vnd.kitops.modelkit.config.v1+json"

AS_PEOPLE_WRITE_THEM = {"./", "a/", "./a"}
"""Rows of the corpus that a Kitfile may have: KitOps cleans them before it packs."""
HOSTILE_PATHS = {row: text for row, text in HOSTILE.items() if text not in AS_PEOPLE_WRITE_THEM | {"."}}


def layer(content: bytes, kind: str, ending: str = "tar+gzip", **annotations: str) -> Layer:
    media_type = f"application/vnd.kitops.modelkit.{kind}.v1.{ending}"
    return Layer(content=content, media_type=media_type, annotations=annotations)


def kit(kitfile: Any, *layers: Layer) -> Any:
    content = kitfile if isinstance(kitfile, bytes) else json.dumps(kitfile).encode()
    return artifact(layers, Layer(content=content, media_type=CONFIG))


def entry(path: str, content: bytes) -> dict[str, str]:
    """An entry as newer releases write it, with its layer and the digest of the tar in it."""
    return {"path": path, "digest": sha256(content), "diffId": sha256(content + b", uncompressed")}


def whole_kit() -> tuple[dict[str, Any], list[Layer]]:
    kitfile = {
        "manifestVersion": "1.0.0",
        "package": {"name": "forum", "version": "1.0.0", "authors": ["A"]},
        "model": {"name": "m", **entry("./models/m.joblib", b"model"), "parts": [entry("parts/p", b"part")]},
        "code": [entry("./notebooks", b"code 1"), entry("src/", b"code 2")],
        "datasets": [{"name": "train", **entry("./data/train.csv", b"data"), "parameters": {"rows": 1}}],
        "docs": [{"description": "", **entry(".", b"docs")}],
    }
    layers = [
        layer(b"model", "model", "tar"),
        layer(b"part", "modelpart"),
        layer(b"code 1", "code"),
        layer(b"code 2", "code"),
        layer(b"data", "dataset"),
        layer(b"docs", "docs"),
    ]
    return kitfile, layers


def test_newer_kit_is_its_kitfile_and_checked_tars_at_the_root() -> None:
    kitfile, layers = whole_kit()
    found = kit(kitfile, *layers)
    assert kind_of(found.manifest).name == "kitops"
    plan = planned(found)
    assert shown(plan) == {"Kitfile": (None, "config")}
    assert [archive.layer for archive in plan.archives] == [0, 1, 2, 3, 4, 5]
    assert {archive.root for archive in plan.archives} == {None}
    expected = [Digest.of(each.content + b", uncompressed") for each in layers]
    assert [archive.content for archive in plan.archives] == expected
    assert [archive.compression for archive in plan.archives] == [Compression.NONE, *[Compression.GZIP] * 5]


def test_kitfile_is_the_config_and_is_fetched() -> None:
    found = kit({"manifestVersion": "1.0.0"})
    plan = planned(found)
    (kitfile,) = plan.entries
    assert (kitfile.blob, kitfile.is_local, kitfile.mode) == (found.manifest.config, False, 0o444)
    assert plan.blobs == (found.manifest.config,)


@pytest.mark.parametrize(
    ("path", "directory"),
    [("models/a/m.bin", "models/a"), ("./models/m.bin", "models"), ("data/", None), ("m.bin", None), (".", None),
     ("./", None), ("./x", None), ("a/b/", "a")],
)  # fmt: skip
def test_tar_of_an_older_kit_begins_in_the_directory_of_its_path(path: str, directory: str | None) -> None:
    plan = planned(kit({"model": {"path": path}}, layer(b"tar", "model")))
    (archive,) = plan.archives
    assert (archive.root, archive.content) == (Name.parse(directory) if directory else None, None)


def test_entries_belong_to_the_layers_of_their_type_in_their_order() -> None:
    kitfile = {"datasets": [{"path": "a/1"}, {"path": "b/2"}], "code": [{"path": "c/3"}]}
    plan = planned(kit(kitfile, layer(b"1", "dataset"), layer(b"2", "code"), layer(b"3", "dataset")))
    assert [str(archive.directory) for archive in plan.archives] == ["a", "c", "b"]


def test_model_that_is_another_kit_is_no_layer_of_this_one() -> None:
    kitfile = {"model": {"path": "ghcr.io/acme/base:v1", "parts": [{"path": "lora/a"}]}}
    plan = planned(kit(kitfile, layer(b"1", "modelpart")))
    assert [str(archive.directory) for archive in plan.archives] == ["lora"]


def test_kit_that_is_not_unpacked_is_its_kitfile_and_tars_under_their_digests() -> None:
    layers = [layer(b"1", "model", "tar"), layer(b"2", "docs")]
    plan = planned(kit({"model": {"path": "m"}, "docs": [{"path": "d"}]}, *layers), unpack=False)
    assert shown(plan) == {
        "Kitfile": (None, "config"),
        named(layers[0], ".tar"): (0, "digest, packed"),
        named(layers[1], ".tar.gz"): (1, "digest, packed"),
    }
    assert plan.archives == ()


def test_layer_of_no_type_of_kitops_is_as_any_other_artifacts() -> None:
    titled = Layer(content=b"1", title="README.md")
    new = layer(b"2", "hologram")
    assert shown(planned(kit({}, titled, new))) == {
        "Kitfile": (None, "config"),
        "README.md": (0, "title"),
        named(new): (1, "digest"),
    }


# -- refusals


@pytest.mark.parametrize("text", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS.keys())
@pytest.mark.parametrize("is_newer", [True, False], ids=["newer kit", "older kit"])
def test_hostile_path_is_refused(text: str, is_newer: bool) -> None:  # noqa: FBT001 (a parameter)
    found = entry(text, b"tar") if is_newer else {"path": text}
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, layer 0 \(.*\): Kitfile path ") as caught:
        planned(kit({"model": found}, layer(b"tar", "model")))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("path", ["", "././a", ".//a", "./..", "../", "./.", "a//", "/", "./../a/", "..", "a/./"])
def test_path_is_cleaned_of_no_more_than_what_people_write(path: str) -> None:
    with pytest.raises(HostileContentError, match="layer 0"):
        planned(kit({"model": {"path": path}}, layer(b"tar", "model")))


def test_older_entry_without_a_path_is_refused() -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 .*Kitfile path"):
        planned(kit({"model": {"name": "m"}}, layer(b"tar", "model")))


def test_entry_with_the_digest_of_another_layer_is_refused() -> None:
    kitfile = {"docs": [entry("a", b"first"), entry("b", b"another")]}
    with pytest.raises(HostileContentError, match=r"layer 1 .*the Kitfile gives another digest for it"):
        planned(kit(kitfile, layer(b"first", "docs"), layer(b"second", "docs")))


@pytest.mark.parametrize("digest", ["sha256:short", "../../x", "md5:d41d8cd98f00b204e9800998ecf8427e"])
def test_digest_of_the_content_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 .*the digest of its content: "):
        planned(kit({"docs": [{**entry("a", b"tar"), "diffId": digest}]}, layer(b"tar", "docs")))


@pytest.mark.parametrize("kind", ["model", "modelpart", "code", "dataset", "docs"])
def test_layer_that_the_kitfile_does_not_name_is_refused(kind: str) -> None:
    with pytest.raises(HostileContentError, match=rf"layer 0 .*the Kitfile has no {kind} for it"):
        planned(kit({"manifestVersion": "1.0.0"}, layer(b"tar", kind)))


@pytest.mark.parametrize(
    "kitfile",
    [b"", b"model: {path: a}", b"[]", {"model": "a"}, {"docs": {}}, {"docs": ["a"]}, {"model": {"parts": [1]}},
     {"docs": [{"path": 5}]}, {"docs": [{"path": "a", "digest": 5}]}, {"docs": [{"path": "a", "diffId": []}]}],
    ids=ascii,
)  # fmt: skip
def test_malformed_kitfile_is_refused(kitfile: Any) -> None:
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, config \("):
        planned(kit(kitfile, layer(b"tar", "docs")))


@pytest.mark.parametrize("unpack", [True, False], ids=["auto", "never"])
def test_hostile_title_of_another_layer_is_refused(unpack: bool) -> None:  # noqa: FBT001 (a parameter)
    with pytest.raises(HostileContentError, match=r"layer 0 .*title"):
        planned(kit({}, Layer(content=b"1", annotations={TITLE: "../x"})), unpack=unpack)
