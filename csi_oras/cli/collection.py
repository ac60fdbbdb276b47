"""`store gc`: give back what nobody uses."""

import json
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import console, working
from csi_oras.store.candidates import Decision
from csi_oras.store.collection import Collection

_SHORT = 19


@click.command("gc", short_help="Give back what nobody uses.")
@click.option("--all", "everything", is_flag=True, help="All that nobody uses and is older than minAge.")
@click.option("--dry-run", is_flag=True, help="Say what would go and what would stay, and why; change nothing.")
@store_options
@reports_errors
def gc(everything: bool, dry_run: bool, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Give back what nobody uses, the least recently used first, down to the low watermark of node policy.

    What volumes show, what a pull or the prefetch list needs, and what was used within minAge stays.
    """
    if not has_store(options):
        collection = Collection()
    else:
        with application(options, to_look=dry_run) as app, working("looking at what is used"):
            collection = app.collector.collect(everything=everything, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(_document(collection)))
    else:
        _show(collection, dry_run=dry_run)


def _document(collection: Collection) -> dict[str, Any]:
    return {
        "freedBytes": collection.freed,
        "removed": [
            {"digest": decision.digest, "kind": decision.kind, "bytes": decision.size, "reason": decision.reason}
            for decision in collection.removed
        ],
        "kept": [
            {"digest": decision.digest, "kind": decision.kind, "reason": decision.reason}
            for decision in collection.kept
        ],
    }


def _show(collection: Collection, *, dry_run: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "WHAT", "DIGEST"):
        table.add_column(column)
    table.add_column("SIZE", justify="right")
    table.add_column("WHY", overflow="fold")
    for verdict, decisions in (("goes", collection.removed), ("stays", collection.kept)):
        for decision in decisions:
            _add(table, verdict, decision)
    if table.row_count:
        console().print(table)
    freed = decimal(collection.freed)
    click.echo(f"{freed} would be freed" if dry_run else f"{freed} freed")


def _add(table: Table, verdict: str, decision: Decision) -> None:
    size = decimal(decision.size) if verdict == "goes" else ""
    table.add_row(verdict, decision.kind, decision.digest[:_SHORT], size, decision.reason)
