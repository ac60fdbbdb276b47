"""`store`: what the node has, and `store ls`."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from csi_oras.cli.commands import Commands
from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import ago, console
from csi_oras.store.catalogue import CataloguedArtifact
from csi_oras.store.sharing import local_bytes

_MODULES = {
    "ls": "store:ls",
    "du": "sharing:du",
    "gc": "collection:gc",
    "prefetch": "prefetch:prefetch",
    "verify": "verification:verify",
}


@click.command(cls=Commands, modules=_MODULES)
def store() -> None:
    """Look at the node's artifact store, and tidy it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """An artifact, its bytes that are here, and why it stays in words for people."""

    artifact: CataloguedArtifact
    local: int
    kept: str


@click.command("ls", short_help="List the artifacts, the one used last first.")
@store_options
@reports_errors
def ls(as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """List the artifacts in the store, the one used last first, and why they stay.

    What nothing keeps goes when the store needs the room.
    """
    rows = _rows(options) if has_store(options) else []
    if as_json:
        click.echo(json.dumps([_document(row) for row in rows]))
    elif rows:
        _show(rows)
    else:
        click.echo("the store has no artifacts")


def _rows(options: dict[str, Any]) -> list[_Row]:
    with application(options, to_look=True) as app:
        local, held = local_bytes(app.paths, app.database), app.leases.held()
        return [
            _Row(artifact=artifact, local=local.get(str(artifact.digest), 0), kept=held.reason(str(artifact.digest)))
            for artifact in app.catalogue.artifacts()
        ]


def _document(row: _Row) -> dict[str, Any]:
    artifact = row.artifact
    last_used = datetime.fromtimestamp(artifact.last_used, UTC).isoformat(timespec="seconds")
    return {
        "digest": str(artifact.digest),
        "references": list(artifact.references),
        "bytes": artifact.size,
        "localBytes": row.local,
        "volumes": artifact.volumes,
        "lastUsed": last_used.replace("+00:00", "Z"),
    }


def _show(rows: list[_Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("DIGEST")
    table.add_column("SIZE", justify="right")
    for column in ("LAST USED", "KEPT", "REFERENCES"):
        table.add_column(column, overflow="fold")
    now = time.time()
    for row in rows:
        artifact = row.artifact
        size = decimal(artifact.size)
        table.add_row(
            artifact.digest.short,
            size if row.local == artifact.size else f"{decimal(row.local)} of {size}",
            ago(now - artifact.last_used),
            row.kept,
            "\n".join(artifact.references),
        )
    console().print(table)
