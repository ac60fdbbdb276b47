"""`store`: what the node has, and `store ls`."""

import json
from datetime import UTC, datetime
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from csi_oras.cli.commands import Commands
from csi_oras.cli.options import application, reports_errors, store_options
from csi_oras.cli.output import console
from csi_oras.store.catalogue import CataloguedArtifact

_MODULES = {"ls": "store:ls", "gc": "collection:gc", "prefetch": "prefetch:prefetch", "verify": "verification:verify"}


@click.command(cls=Commands, modules=_MODULES)
def store() -> None:
    """Look at the node's artifact store, and tidy it."""


@click.command("ls", short_help="List the artifacts, the one used last first.")
@store_options
@reports_errors
def ls(as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """List the artifacts in the store, the one used last first."""
    artifacts = _artifacts(options) if options["state_dir"].is_dir() else []  # looking at nothing makes nothing
    documents = [
        {
            "digest": str(artifact.digest),
            "references": list(artifact.references),
            "bytes": artifact.size,
            "localBytes": artifact.size,
            "volumes": artifact.volumes,
            "lastUsed": datetime.fromtimestamp(artifact.last_used, UTC)
            .isoformat(timespec="seconds")
            .replace("+00:00", "Z"),
        }
        for artifact in artifacts
    ]
    if as_json:
        click.echo(json.dumps(documents))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("DIGEST", "left"),
        ("SIZE", "right"),
        ("VOLUMES", "right"),
        ("LAST USED", "left"),
        ("REFERENCES", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for artifact, document in zip(artifacts, documents, strict=True):
        table.add_row(
            artifact.digest.short,
            decimal(artifact.size),
            str(artifact.volumes),
            str(document["lastUsed"]),
            "\n".join(artifact.references),
        )
    console().print(table)


def _artifacts(options: dict[str, Any]) -> list[CataloguedArtifact]:
    with application(options) as app:
        return app.catalogue.artifacts()
