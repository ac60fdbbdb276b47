"""Helm, Apptainer, Wasm and Flux: each artifact is built to its tool's source, and named as the tool names it."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support import kinds
from tests.support.artifacts import EMPTY_TYPE, Layer, Pusher
from tests.support.kinds import (
    as_volume,
    compressed,
    digest_name,
    file,
    manifest_of,
    plant,
    plant_links,
    push,
    shown,
    tree,
)
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]

_FLUX = "application/vnd.cncf.flux."
_WASM = b"\0asm\1\0\0\0"


# -- Helm (helm/helm: pkg/registry, pkg/downloader/chart_downloader.go)


def chart(name: str, version: str) -> tuple[Layer, Layer, Layer]:
    """The config, the chart and the provenance of a chart, as `helm push` sends them."""
    metadata = {"apiVersion": "v2", "name": name, "version": version, "type": "application"}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        chart_yaml = f"apiVersion: v2\nname: {name}\nversion: {version}\n".encode()
        for path, text in (("Chart.yaml", chart_yaml), ("values.yaml", b"a: 1\n"), ("templates/x.yaml", b"x: y\n")):
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    provenance = b"-----BEGIN PGP SIGNED MESSAGE-----\n" + chart_yaml
    return (
        Layer(content=json.dumps(metadata).encode(), media_type="application/vnd.cncf.helm.config.v1+json"),
        Layer(
            content=gzip.compress(content.getvalue(), mtime=0),
            media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
        Layer(content=provenance, media_type="application/vnd.cncf.helm.chart.provenance.v1.prov"),
    )


@pytest.mark.parametrize("unpack", ["auto", "never"])
@pytest.mark.parametrize("version", ["1.2.3", "1.2.3-rc.1+build.5"], ids=["plain", "build"])
def test_chart_and_provenance_have_the_names_that_helm_pull_gives(
    volume: Volume, pusher: Pusher, repository: str, version: str, unpack: str
) -> None:
    config, content, provenance = chart("tiny", version)
    tag = version.replace("+", "_")  # which no tag can hold
    reference = push(pusher, f"{repository}/tiny", [content, provenance], config, tag=tag)
    volume.publish(reference=reference, unpack=unpack)
    named = {f"tiny-{version}.tgz": content.content, f"tiny-{version}.tgz.prov": provenance.content}
    assert shown(volume.target) == tree(named)


def test_chart_by_digest_is_named_by_what_it_says_of_itself(volume: Volume, pusher: Pusher, repository: str) -> None:
    config, content, _ = chart("tiny", "1.2.3+build.5")
    reference = push(pusher, f"{repository}/tiny", [content], config, tag="1.2.3_build.5")
    digest = digest_name(manifest_of(reference)[0]).replace("-", ":")
    volume.publish(reference=f"{reference.removesuffix(':1.2.3_build.5')}@{digest}")
    assert shown(volume.target) == tree({"tiny-1.2.3+build.5.tgz": content.content})


def test_chart_under_two_tags_has_the_name_of_each(volume: Volume, pusher: Pusher, repository: str) -> None:
    config, content, _ = chart("tiny", "1.2.3")
    references = [push(pusher, f"{repository}/tiny", [content], config, tag=tag) for tag in ("1.2.3", "1.2")]
    for reference, name in zip((*references, *references), 2 * ("tiny-1.2.3.tgz", "tiny-1.2.tgz"), strict=True):
        volume.publish(reference=reference)  # the second time from the store
        assert volume.names() == [name]
        volume.unpublish()


def test_chart_of_an_older_helm_is_a_chart(volume: Volume, pusher: Pusher, repository: str) -> None:
    config, content, _ = chart("tiny", "1.0.0")
    older = Layer(content=content.content, media_type="application/tar+gzip")
    volume.publish(reference=push(pusher, f"{repository}/tiny", [older], config, tag="1.0.0"))
    assert shown(volume.target) == tree({"tiny-1.0.0.tgz": content.content})


# -- Apptainer (apptainer/apptainer: internal/pkg/client/oras/oras.go)


@pytest.mark.parametrize(
    "media_type",
    ["application/vnd.sylabs.sif.layer.v1.sif", "appliciation/vnd.sylabs.sif.layer.tar"],
    ids=["sif", "misspelt"],
)
@pytest.mark.parametrize("title", ["alpine_3.20.sif", None])
def test_sif_image_is_a_program_named_as_it_was_pushed_or_as_apptainer_pull_would(
    volume: Volume, pusher: Pusher, repository: str, media_type: str, title: str | None
) -> None:
    config = Layer(content=b"{}", media_type="application/vnd.sylabs.sif.config.v1+json")
    content = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0"
    layer = Layer(content=content, title=title, media_type=media_type)
    volume.publish(reference=push(pusher, f"{repository}/alpine", [layer], config, tag="3.21"))
    assert shown(volume.target) == tree({title or "alpine_3.21.sif": file(content, executable=True)})


# -- Wasm (tag-runtime.cncf.io: wasm OCI artifact layout; engineerd/wasm-to-oci)


@pytest.mark.parametrize(
    "types",
    [
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
        ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
        (EMPTY_TYPE, "application/wasm"),
    ],
    ids=["CNCF", "older", "no config"],
)
@pytest.mark.parametrize("title", ["module.wasm", None])
def test_wasm_module_has_its_title_or_the_name_of_its_repository(
    volume: Volume, pusher: Pusher, repository: str, types: tuple[str, str], title: str | None
) -> None:
    of_config, of_layer = types
    document = {"architecture": "wasm", "os": "wasip2", "layerDigests": [], "component": {"exports": []}}
    config = Layer(content=b"{}" if of_config == EMPTY_TYPE else json.dumps(document).encode(), media_type=of_config)
    module = Layer(content=_WASM, title=title, media_type=of_layer)
    volume.publish(reference=push(pusher, f"{repository}/hello", [module], config))
    assert shown(volume.target) == tree({title or "hello.wasm": _WASM})


# -- Flux (fluxcd/pkg: oci/push.go, oci/pull.go)


def flux(pusher: Pusher, repository: str, content: bytes, kind: str) -> str:
    config = Layer(content=b"{}", media_type=_FLUX + "config.v1+json")
    return push(pusher, repository, [Layer(content=content, media_type=_FLUX + kind)], config)


def test_flux_artifact_is_unpacked_without_its_links(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    planted = plant(tmp_path / "manifests")
    expected = as_volume(planted)
    content = compressed(kinds.tar(plant_links(planted)), "gzip")
    volume.publish(reference=flux(pusher, repository, content, "content.v1.tar+gzip"))
    assert shown(volume.target) == expected


def test_flux_artifact_with_links_out_of_it_is_shown_without_them(
    volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    planted = plant(tmp_path / "manifests")
    expected = as_volume(planted)
    (planted / "out").symlink_to(tmp_path)
    (planted / "up").symlink_to("../..")
    content = compressed(kinds.tar(planted), "gzip")
    volume.publish(reference=flux(pusher, repository, content, "content.v1.tar+gzip"))
    assert shown(volume.target) == expected


@pytest.mark.parametrize("extension", [".yaml", ""])
def test_flux_static_file_is_named_by_its_digest_and_its_type(
    volume: Volume, pusher: Pusher, repository: str, extension: str
) -> None:
    volume.publish(reference=flux(pusher, repository, b"kind: ConfigMap\n", f"content.v1{extension}"))
    assert shown(volume.target) == tree({digest_name(b"kind: ConfigMap\n") + extension: b"kind: ConfigMap\n"})
