"""`inspect`: what a volume of an artifact would hold, and why."""

import json
from typing import Any

import click
from rich.filesize import decimal
from rich.text import Text
from rich.tree import Tree

from csi_oras.cli.artifacts import client_of, request_of
from csi_oras.cli.options import (
    REFERENCE,
    application,
    registry_options,
    reports_errors,
    selection_options,
    store_options,
)
from csi_oras.cli.output import console, count_files
from csi_oras.errors import printable
from csi_oras.oci.plan import PlanArchive, PlanEntry
from csi_oras.transfer.request import Planned


@click.command(short_help="Show what a volume would hold, and why.")
@click.argument("reference", type=REFERENCE, metavar="REF")
@selection_options
@registry_options
@store_options
@reports_errors
def inspect(reference: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Show what a volume of an artifact would hold, and why, without fetching it.

    A name that ends in a slash is an archive: what it holds is known when it is unpacked, so that a volume with one
    is never lazy. Of a chunk index it says whether the manifest binds it, or it is only a hint.
    """
    with application(options) as app:
        request = request_of(app, reference, options)
        planned = app.puller.plan(request)
        manifest, artifact = planned.artifact.manifest, planned.artifact.digest
        index = app.chunk_indexes.published(client_of(app, request), manifest, artifact)
    document = {**_document(planned), "index": str(index.trust) if index else "none"}
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        _print(document)


def _document(planned: Planned) -> dict[str, Any]:
    artifact, plan = planned.artifact, planned.plan
    files = [{**_file(str(entry.name), entry.mode, entry), "lazy": plan.can_be_lazy} for entry in plan.entries]
    archives = [{**_file(f"{archive.root or ''}/", 0o555, archive), "lazy": False} for archive in plan.archives]
    return {
        "reference": str(artifact.reference.pinned(artifact.root)),
        "digest": str(artifact.digest),
        "mediaType": artifact.manifest.media_type,
        "artifactType": artifact.manifest.artifact_type,
        "kind": planned.kind.name,
        "files": [*files, *archives],
        "left": [{"layer": item.layer, "reason": item.reason} for item in plan.left],
    }


def _file(name: str, mode: int, item: PlanEntry | PlanArchive) -> dict[str, Any]:
    return {"name": name, "size": item.blob.size, "mode": f"{mode:04o}", "layer": item.layer, "rule": item.rule}


def _print(document: dict[str, Any]) -> None:
    out, files = console(), document["files"]
    total = decimal(sum(file["size"] for file in files))
    out.print(Text(document["reference"], style="bold"))
    out.print(Text(f"{document['artifactType']}, kind {document['kind']}, {count_files(len(files))}, {total}"))
    out.print(Text(_lazily(document), style="dim"))
    root = Tree("/")
    branches: dict[str, Tree] = {"": root}
    for file in files:
        above, _, last = file["name"].rstrip("/").rpartition("/")
        label = Text(f"{last}{'/' if file['name'].endswith('/') else ''}  ")
        source = "the artifact itself" if file["layer"] is None else f"layer {file['layer']}"
        label.append(f"{decimal(file['size'])}, {source}, by {file['rule']}", style="dim")
        _branch(branches, above).add(label)
    out.print(root)
    for item in document["left"]:
        out.print(Text(f"left out: layer {item['layer']}: {printable(item['reason'])}", style="dim"))


def _lazily(document: dict[str, Any]) -> str:
    if not all(file["lazy"] for file in document["files"]):
        return "mode lazy: pulled all the same, since it has to be unpacked"
    index = {
        "none": "no chunk index",
        "bound": "a chunk index that the manifest binds",
        "hint": "a chunk index as a hint",
    }
    return f"mode lazy: read on demand, {index[document['index']]}"


def _branch(branches: dict[str, Tree], directory: str) -> Tree:
    if directory not in branches:
        above, _, last = directory.rpartition("/")
        branches[directory] = _branch(branches, above).add(Text(f"{last}/"))
    return branches[directory]
