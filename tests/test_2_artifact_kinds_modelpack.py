"""ModelPack: names by file path, tars at the root, the executable bit, and what it refuses."""

import json
from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from csi_oras.oci.digest import Digest
from csi_oras.oci.plan import Compression
from tests.support.artifacts import EMPTY_TYPE, TITLE, Layer, sha256
from tests.support.planning import HOSTILE, artifact, named, planned, shown

MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
PATH, METADATA = "org.cncf.model.filepath", "org.cncf.model.file.metadata+json"
OLD_PATH, OLD_METADATA = "org.cnai.model.filepath", "org.cnai.model.file.metadata+json"


def layer(content: bytes, path: str | None, kind: str = "weight.v1.raw", **annotations: str) -> Layer:
    paths = {} if path is None else {PATH: path}
    return Layer(content=content, media_type=f"application/vnd.cncf.model.{kind}", annotations={**paths, **annotations})


def model(*layers: Layer, modelfs: Any = None, **members: Any) -> Any:
    """A model as modctl builds it; `modelfs` is that of its config."""
    config: dict[str, Any] = {
        "descriptor": {"name": "llama3-8b-instruct", "family": "llama3"},
        "config": {"format": "gguf"},
    }
    if modelfs is not None:
        config["modelfs"] = modelfs
    content = json.dumps(config).encode()
    members = {"artifactType": MANIFEST, **members}
    return artifact(layers, Layer(content=content, media_type=CONFIG), **members)


def metadata(**members: Any) -> str:
    return json.dumps({"name": "run.sh", "mode": 0o644, "uid": 0, "gid": 0, "size": 4, "typeflag": 48, **members})


def test_raw_layers_are_files_under_their_file_paths() -> None:
    found = model(
        layer(b"weights", "model.gguf"),
        layer(b"{}", "tokenizer/config.json", "weight.config.v1.raw"),
        layer(b"# doc", "docs/README.md", "doc.v1.raw"),
        layer(b"old gguf", "more.gguf", "weight.v1.gguf"),
    )
    assert kind_of(found.manifest).name == "modelpack"
    plan = planned(found)
    assert shown(plan) == {
        "model.gguf": (0, "filepath"),
        "tokenizer/config.json": (1, "filepath"),
        "docs/README.md": (2, "filepath"),
        "more.gguf": (3, "filepath"),
    }
    assert {entry.mode for entry in plan.entries} == {0o444}
    assert plan.archives == ()


@pytest.mark.parametrize(
    ("layers", "members"),
    [
        ([layer(b"a", "a")], {"artifactType": "application/vnd.acme.other"}),
        ([Layer(content=b"a", title="a")], {}),
        ([Layer(content=b"a", title="a")], {"artifactType": "application/vnd.cnai.model.manifest.v1+json"}),
    ],
    ids=["by its layers", "by its artifact type", "by the old artifact type"],
)
def test_model_is_known_by_any_of_its_types(layers: list[Layer], members: dict[str, Any]) -> None:
    assert kind_of(model(*layers, **members).manifest).name == "modelpack"


def test_old_names_of_types_and_annotations_mean_the_same() -> None:
    layers = [
        Layer(content=b"w", media_type="application/vnd.cnai.model.weight.v1.raw", annotations={OLD_PATH: "w.bin"}),
        Layer(content=b"t", media_type="application/vnd.cnai.model.doc.v1.tar", annotations={OLD_PATH: "LICENSE"}),
        Layer(
            content=b"x",
            media_type="application/vnd.cnai.model.code.v1.raw",
            annotations={OLD_PATH: "run.sh", OLD_METADATA: metadata(mode=0o755)},
        ),
    ]
    config = Layer(content=b"{}", media_type="application/vnd.cnai.model.config.v1+json")
    found = artifact(layers, config, artifactType="application/vnd.cnai.model.manifest.v1+json")
    plan = planned(found)
    assert [(str(entry.name), entry.mode) for entry in plan.entries] == [("run.sh", 0o555), ("w.bin", 0o444)]
    assert [archive.layer for archive in plan.archives] == [1]


@pytest.mark.parametrize(
    ("ending", "how", "suffix"),
    [
        ("tar", Compression.NONE, ".tar"),
        ("tar+gzip", Compression.GZIP, ".tar.gz"),
        ("tar+zstd", Compression.ZSTD, ".tar.zst"),
    ],
)
@pytest.mark.parametrize("what", ["weight", "weight.config", "doc", "code", "dataset"])
def test_tar_begins_at_the_root_or_stays_a_file(what: str, ending: str, how: Compression, suffix: str) -> None:
    found = model(layer(b"tar", "data/train", f"{what}.v1.{ending}"))
    plan = planned(found)
    (archive,) = plan.archives
    assert plan.entries == ()
    assert (archive.layer, archive.compression, archive.root) == (0, how, None)
    assert not archive.is_image_layer
    packed = planned(found, unpack=False)
    assert shown(packed) == {f"data/train{suffix}": (0, "filepath, packed")}
    assert packed.archives == ()


def test_packed_tar_keeps_a_name_that_says_what_it_is() -> None:
    found = model(layer(b"1", "a.tar", "doc.v1.tar"), layer(b"2", "b.tgz", "doc.v1.tar+gzip"))
    assert list(shown(planned(found, unpack=False))) == ["a.tar", "b.tgz"]


def test_layer_without_a_path_goes_by_its_title_and_then_by_its_digest() -> None:
    tar = layer(b"tar", None, "doc.v1.tar")
    layers = [layer(b"1", None, **{TITLE: "t.bin"}), layer(b"2", ""), tar, layer(b"3", "p", **{TITLE: "ignored"})]
    assert shown(planned(model(*layers), unpack=False)) == {
        "t.bin": (0, "title"),
        named(layers[1]): (1, "digest"),
        named(tar, ".tar"): (2, "digest, packed"),
        "p": (3, "filepath"),
    }


def test_empty_descriptor_among_the_layers_is_left_out() -> None:
    plan = planned(model(layer(b"1", "a"), Layer(content=b"{}", media_type=EMPTY_TYPE)))
    assert list(shown(plan)) == ["a"]
    assert [(left.layer, left.reason) for left in plan.left] == [(1, "is the empty descriptor")]


# -- file metadata


@pytest.mark.parametrize(
    ("mode", "shown_mode"),
    [(0o755, 0o555), (0o100, 0o555), (0o001, 0o555), (0o644, 0o444), (0, 0o444), (0o4755, 0o555), (0o6666, 0o444)],
    ids=oct,
)
def test_executable_bit_is_all_that_counts_of_a_mode(mode: int, shown_mode: int) -> None:
    found = model(layer(b"x", "run.sh", "code.v1.raw", **{METADATA: metadata(mode=mode)}))
    assert planned(found).entries[0].mode == shown_mode


def test_whatever_else_the_metadata_says_changes_nothing() -> None:
    hostile = metadata(uid=0, typeflag=50, size=-1, mtime="9999-12-31T23:59:59Z", name="../../x", extra=[1])
    plan = planned(model(layer(b"x", "a", **{METADATA: hostile})))
    assert plan.digest == planned(model(layer(b"x", "a"))).digest


@pytest.mark.parametrize("text", ["{}", '{"mode": null}', '{"name": "a"}', ""])
def test_metadata_without_a_mode_makes_a_plain_file(text: str) -> None:
    assert planned(model(layer(b"x", "a", **{METADATA: text}))).entries[0].mode == 0o444


@pytest.mark.parametrize(
    "text",
    ["{", "null", "[]", '"a"', "0755", "[" * 100_000, '{"mode": "0755"}', '{"mode": true}', '{"mode": -1}',
     '{"mode": 1.5}', '{"mode": 1e999}', '{"mode": 1, "mode": 73}', '{"mode": NaN}', "\udcff", "9" * 5000],
    ids=lambda text: ascii(text[:16]),
)  # fmt: skip
def test_malformed_metadata_is_refused(text: str) -> None:
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, layer 1 \(.*\), file metadata: ") as caught:
        planned(model(layer(b"1", "a"), layer(b"x", "b", **{METADATA: text})))
    assert caught.value.message.isprintable()


# -- refusals


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("key", [PATH, OLD_PATH, TITLE])
@pytest.mark.parametrize("kind", ["weight.v1.raw", "doc.v1.tar"])
@pytest.mark.parametrize("unpack", [True, False], ids=["auto", "never"])
def test_hostile_path_is_refused(text: str, key: str, kind: str, unpack: bool) -> None:  # noqa: FBT001 (a parameter)
    what = "title" if key == TITLE else "filepath"
    with pytest.raises(HostileContentError, match=rf"^reg.example/t/x:v1, layer 0 \(.*\): {what} ") as caught:
        planned(model(layer(b"x", None, kind, **{key: text})), unpack=unpack)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("kind", ["weight.v1.raw", "weight.v1.tar"])
def test_two_paths_that_differ_are_refused(kind: str) -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 .*org.cncf.model.filepath and org.cnai.model.filepath dif"):
        planned(model(layer(b"x", "a", kind, **{OLD_PATH: "b"})))


def test_two_metadata_that_differ_are_refused() -> None:
    both = {METADATA: metadata(mode=0o644), OLD_METADATA: metadata(mode=0o755)}
    with pytest.raises(HostileContentError, match=r"layer 0 .*metadata\+json differ"):
        planned(model(layer(b"x", "a", **both)))


@pytest.mark.parametrize("old", ["a", ""], ids=["the same", "empty"])
def test_two_paths_that_agree_are_one(old: str) -> None:
    assert list(shown(planned(model(layer(b"x", "a", **{OLD_PATH: old}))))) == ["a"]


# -- the digests of what is in the tars


def tars() -> list[Layer]:
    return [layer(b"raw", "a"), layer(b"tar", "b", "doc.v1.tar+gzip"), layer(b"other", "c", "code.v1.tar")]


def test_tars_must_have_the_content_that_the_config_lists() -> None:
    contents = [sha256(content) for content in (b"raw", b"uncompressed", b"other")]
    plan = planned(model(*tars(), modelfs={"type": "layers", "diffIds": contents}))
    assert [archive.content for archive in plan.archives] == [Digest.of(b"uncompressed"), Digest.of(b"other")]


@pytest.mark.parametrize(
    "modelfs",
    [None, {}, {"type": "layers"}, {"diffIds": None}, {"diffIds": []}, {"diffIds": [sha256(b"1"), sha256(b"2")]}],
    ids=["none", "empty", "no list", "null", "empty list", "another number"],
)
def test_config_that_does_not_list_each_layer_gives_nothing_to_check(modelfs: Any) -> None:
    plan = planned(model(*tars(), modelfs=modelfs))
    assert [archive.content for archive in plan.archives] == [None, None]


def test_own_digest_of_a_compressed_layer_is_no_digest_of_its_content() -> None:
    contents = [sha256(content) for content in (b"raw", b"tar", b"other")]
    plan = planned(model(*tars(), modelfs={"diffIds": contents}))
    assert [archive.content for archive in plan.archives] == [None, Digest.of(b"other")]


@pytest.mark.parametrize(
    "modelfs",
    ["layers", [], {"diffIds": {}}, {"diffIds": "sha256"}, {"diffIds": [1, 2, 3]},
     {"diffIds": [sha256(b"raw"), "sha256:short", sha256(b"other")]},
     {"diffIds": [sha256(b"raw"), "md5:d41d8cd98f00b204e9800998ecf8427e", sha256(b"other")]}],
    ids=["text", "list", "object", "string", "numbers", "no digest", "weak"],
)  # fmt: skip
def test_malformed_list_of_contents_is_refused(modelfs: Any) -> None:
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, config \("):
        planned(model(*tars(), modelfs=modelfs))


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"\xff"])
def test_config_that_is_no_json_object_is_refused(content: bytes) -> None:
    found = artifact(tars(), Layer(content=content, media_type=CONFIG))
    with pytest.raises(HostileContentError, match=r"^reg.example/t/x:v1, config \("):
        planned(found)
    assert len(shown(planned(found, unpack=False))) == 3
