"""Helm: a chart and its provenance under the names that `helm pull` gives them, always packed; and plugins.

A chart is used packed, and its provenance signs the packed file. A tag cannot hold the `+` of a version, so Helm
writes `_` there. (helm/helm: pkg/registry, pkg/downloader/chart_downloader.go)
"""

from collections.abc import Iterator

from csi_oras.artifact.generic import titled
from csi_oras.artifact.kind import Artifact, Kind, PlanItem
from csi_oras.errors import HostileContentError, printable
from csi_oras.oci import document as json
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.plan import PlanEntry

_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_PLUGIN = "application/vnd.helm.plugin.v1+json"
_SUFFIXES = {
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip": ".tgz",
    "application/tar+gzip": ".tgz",  # of Helm before 3.7
    "application/vnd.cncf.helm.chart.provenance.v1.prov": ".tgz.prov",
}


def _matches(manifest: Manifest) -> bool:
    return manifest.config.media_type == _CONFIG or manifest.artifact_type == _PLUGIN


def _items(artifact: Artifact, unpack: bool) -> Iterator[PlanItem]:  # noqa: ARG001, FBT001 (a chart stays packed)
    is_chart = artifact.manifest.config.media_type == _CONFIG
    stem, rule = _stem(artifact) if is_chart else ("", "")  # a plugin's files have titles
    for number, layer in enumerate(artifact.manifest.layers):
        suffix = _SUFFIXES.get(layer.media_type, "")
        if stem and suffix:
            name = artifact.name(stem + suffix, number, rule)
            yield PlanEntry(name=name, blob=layer, layer=number, rule=rule)
        else:
            yield titled(artifact, number, unpack=False)


def _stem(artifact: Artifact) -> tuple[str, str]:
    """Return what the chart's files are called before their suffixes, and by which rule; empty where nothing says."""
    if tag := artifact.reference.tag:
        return f"{artifact.basename}-{tag.replace('_', '+')}", "repository and tag"
    chart = artifact.config_document()
    name, version = (_part(artifact, json.text(chart, key, artifact.config_subject, "")) for key in ("name", "version"))
    return (f"{name}-{version}", "chart name and version") if name and version else ("", "")


def _part(artifact: Artifact, text: str) -> str:
    """Check a part of a file name that the config gives."""
    if text and len(artifact.name(text, None, "chart config").components) > 1:
        cause = f'chart config "{printable(text, 80)}" holds a slash'
        raise HostileContentError(artifact.config_subject, cause, "push the chart again under a plain name")
    return text


KIND = Kind(name="helm", matches=_matches, items=_items, reads_config=True, goes_by_reference=True)
