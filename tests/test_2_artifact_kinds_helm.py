"""Helm: the file names of `helm pull`, what a chart's own metadata may say, and plugins."""

import json
from typing import Any

import pytest

from csi_oras.artifact.kinds import kind_of
from csi_oras.errors import HostileContentError
from tests.support.artifacts import EMPTY_TYPE, TITLE, Layer, sha256
from tests.support.planning import HOSTILE, artifact, named, planned, shown

CONFIG = "application/vnd.cncf.helm.config.v1+json"
CHART = Layer(content=b"chart", media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip")
PROVENANCE = Layer(content=b"signed", media_type="application/vnd.cncf.helm.chart.provenance.v1.prov")
OLD_CHART = Layer(content=b"old chart", media_type="application/tar+gzip")
BY_DIGEST = f"reg.example/charts/nginx@{sha256(b'manifest')}"
TAGGED = "reg.example/charts/nginx:1.2.3"


def chart(*layers: Layer, reference: str = TAGGED, config: Any = None) -> Any:
    metadata = {"name": "ingress", "version": "4.5.6+build.1", "apiVersion": "v2"} if config is None else config
    content = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return artifact(layers, Layer(content=content, media_type=CONFIG), reference)


@pytest.mark.parametrize("unpack", [True, False], ids=["auto", "never"])
def test_chart_and_provenance_are_called_as_helm_pull_calls_them(unpack: bool) -> None:  # noqa: FBT001 (a parameter)
    found = chart(CHART, PROVENANCE)
    assert kind_of(found.manifest).name == "helm"
    plan = planned(found, unpack=unpack)
    assert shown(plan) == {
        "nginx-1.2.3.tgz": (0, "repository and tag"),
        "nginx-1.2.3.tgz.prov": (1, "repository and tag"),
    }
    assert plan.archives == ()


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("reg.example/a/b/nginx:1.2.3_build.1", "nginx-1.2.3+build.1.tgz"),
        ("localhost:5000/nginx:v1", "nginx-v1.tgz"),
        (f"reg.example/nginx:1.0.0@{sha256(b'manifest')}", "nginx-1.0.0.tgz"),
        (BY_DIGEST, "ingress-4.5.6+build.1.tgz"),
    ],
    ids=["version with a plus", "host with a port", "tag and digest", "digest alone"],
)
def test_name_comes_from_the_tag_or_else_from_the_chart(reference: str, name: str) -> None:
    assert list(shown(planned(chart(CHART, reference=reference)))) == [name]


def test_chart_of_an_old_helm_has_the_same_name() -> None:
    assert list(shown(planned(chart(OLD_CHART)))) == ["nginx-1.2.3.tgz"]


def test_title_of_a_chart_is_not_its_name() -> None:
    titled = Layer(content=b"chart", media_type=CHART.media_type, title="other.tgz")
    assert list(shown(planned(chart(titled)))) == ["nginx-1.2.3.tgz"]


@pytest.mark.parametrize("config", [{}, {"name": "a"}, {"version": "1"}, {"name": "", "version": "1"}], ids=str)
def test_chart_without_name_or_version_goes_by_its_digest(config: dict[str, str]) -> None:
    found = planned(chart(CHART, PROVENANCE, reference=BY_DIGEST, config=config))
    assert shown(found) == {named(CHART): (0, "digest"), named(PROVENANCE): (1, "digest")}


def test_any_other_layer_goes_by_its_title() -> None:
    readme = Layer(content=b"# chart", title="README.md")
    assert shown(planned(chart(CHART, readme)))["README.md"] == (1, "title")


HOSTILE_PARTS = {**HOSTILE, "slash": "a/b"}


@pytest.mark.parametrize("text", HOSTILE_PARTS.values(), ids=HOSTILE_PARTS.keys())
@pytest.mark.parametrize("key", ["name", "version"])
def test_hostile_text_in_the_chart_is_refused(text: str, key: str) -> None:
    config = {"name": "nginx", "version": "1", key: text}
    with pytest.raises(HostileContentError, match=r"^reg.example/charts/nginx@sha256.*chart config ") as caught:
        planned(chart(CHART, reference=BY_DIGEST, config=config))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("config", [b"", b"<html>", b"[]", {"name": 5, "version": "1"}], ids=ascii)
def test_malformed_config_is_refused_where_it_is_needed(config: Any) -> None:
    with pytest.raises(HostileContentError, match=r", config \("):
        planned(chart(CHART, reference=BY_DIGEST, config=config))
    assert list(shown(planned(chart(CHART, config=config)))) == ["nginx-1.2.3.tgz"]


def plugin(*layers: Layer) -> Any:
    config = Layer(content=b"{}", media_type=EMPTY_TYPE)
    return artifact(layers, config, TAGGED, artifactType="application/vnd.helm.plugin.v1+json")


@pytest.mark.parametrize("unpack", [True, False], ids=["auto", "never"])
def test_plugin_is_packed_under_its_titles(unpack: bool) -> None:  # noqa: FBT001 (a parameter)
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    found = plugin(
        Layer(content=b"plugin", media_type=media_type, title="diff-3.1.0.tgz"),
        Layer(content=b"signed", media_type=media_type, title="diff-3.1.0.tgz.prov"),
    )
    assert kind_of(found.manifest).name == "helm"
    plan = planned(found, unpack=unpack)
    assert shown(plan) == {"diff-3.1.0.tgz": (0, "title"), "diff-3.1.0.tgz.prov": (1, "title")}
    assert plan.archives == ()


@pytest.mark.parametrize("title", ["../diff-1.tgz", "diff-../../x.tgz"])
def test_hostile_title_of_a_plugin_is_refused(title: str) -> None:
    with pytest.raises(HostileContentError, match=r"layer 0 .*title"):
        planned(plugin(Layer(content=b"plugin", annotations={TITLE: title})))
