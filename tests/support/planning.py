"""Plans of artifacts that are in no registry, and the hostile names that every kind has to refuse."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csi_oras.artifact.kind import Artifact
from csi_oras.artifact.kinds import kind_of
from csi_oras.artifact.planner import plan
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest, parse
from csi_oras.oci.plan import Plan
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from tests.support.artifacts import Layer, manifest, sha256

REFERENCE = "reg.example/t/x:v1"

_CORPUS = json.loads((Path(__file__).parents[1] / "corpus" / "names.json").read_text())
HOSTILE: dict[str, str] = {f"{row['row']} {row['name']}": row["title"] for row in _CORPUS if row["verdict"] == "refuse"}
"""The names of the corpus that no source may bring, by row."""


def artifact(
    layers: Sequence[Layer], config: Layer | None = None, reference: str = REFERENCE, **members: Any
) -> Artifact:
    """An artifact as the planner gets it, parsed from the JSON of its manifest; `members` are the manifest's."""
    content = manifest(layers, config, **members)
    parsed = parse(content, "", reference, most_layers=1000)
    assert isinstance(parsed, Manifest)
    return Artifact(
        reference=Reference.parse(reference),
        root=Digest.of(content),
        digest=Digest.of(content),
        size=len(content),
        manifest=parsed,
        config=config.content if config else b"{}",
    )


def planned(found: Artifact, **selected: Any) -> Plan:
    """The plan of an artifact by its own kind; `selected` are the selection's attributes."""
    return plan(found, kind_of(found.manifest), Selection(**selected))


def named(layer: Layer, suffix: str = "") -> str:
    """The name that a layer has after its digest."""
    return sha256(layer.content).replace(":", "-") + suffix


def shown(found: Plan) -> dict[str, tuple[int | None, str]]:
    """Layer and rule of each file of a plan, by name."""
    return {str(entry.name): (entry.layer, entry.rule) for entry in found.entries}
