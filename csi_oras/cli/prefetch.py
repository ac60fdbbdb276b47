"""`store prefetch`: what node policy wishes for, and how far it is."""

import json
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from csi_oras import config
from csi_oras.app import Application
from csi_oras.cli.bars import bars
from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import console
from csi_oras.oci.reference import Reference
from csi_oras.store.wishes import WishRecord, WishState
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.labels import label_of
from csi_oras.transfer.prefetch import Observers


@click.command("prefetch", short_help="List what node policy wishes for, and how far it is.")
@click.option("--now", is_flag=True, help="Bring all of it up to date first; goes with --config.")
@store_options
@reports_errors
def prefetch(now: bool, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """List what the prefetch list of node policy means, and how far it is.

    Without --config it is what the driver, or the last --now, went by. --now needs no driver, and ends with 1 if
    something failed.
    """
    if now and not options["config_file"]:
        raise click.UsageError("--now goes with --config")
    wishes = [str(entry.wish) for entry in config.load(options["config_file"]).prefetch]
    records: list[WishRecord] = []
    done = True
    if now or has_store(options):
        with application(options, to_look=not now) as app:
            done = _bring(app) if now else True
            records = app.wishes.all()
    if options["config_file"]:
        records = [record for record in records if record.wish in wishes]
        known = {record.wish for record in records}
        records += [WishRecord(wish=wish, reference=wish) for wish in wishes if wish not in known]
    unique = {record.reference: record for record in records}  # several wishes may mean the same
    _show(list(unique.values()), as_json=as_json)
    if not done:
        sys.exit(1)


def _bring(app: Application) -> bool:
    def watch(reference: Reference, progress: Progress) -> AbstractContextManager[None]:
        return bars(progress, f"prefetching {reference}")

    prefetcher = app.prefetcher(Observers(metrics=app.metrics, watch=watch))
    wishes = [entry.wish for entry in app.policy.prefetch]
    prefetcher.adopt(wishes)
    brought = [prefetcher.refresh(wish) for wish in wishes]
    return all(brought)


def _show(records: list[WishRecord], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_document(record) for record in records]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("REFERENCE", "STATE", "DIGEST", "UPDATED", "ERROR"):
        table.add_column(column, overflow="fold")
    for record in records:
        table.add_row(
            record.reference,
            record.state,
            record.digest.short if record.digest else "",
            _time(record.updated) or "",
            record.error,
            style="red" if record.state is WishState.FAILED else "",
        )
    if records:
        console().print(table)
    else:
        click.echo("node policy wishes for nothing")


def _document(record: WishRecord) -> dict[str, Any]:
    return {
        "reference": record.reference,
        "digest": str(record.digest or ""),
        "state": str(record.state),
        "updated": _time(record.updated),
        "error": record.error,
        "label": label_of(Reference.parse(record.reference)) if record.digest else "",
    }


def _time(seconds: float) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
