"""`outbox`: what pods wrote and no registry has yet."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from csi_oras.app import Application
from csi_oras.cli.commands import Commands
from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import console, count_files, working
from csi_oras.errors import CsiOrasError, VolumeBusyError, VolumeNotFoundError, printable
from csi_oras.pack.merge import Uncarriable
from csi_oras.pack.survey import Volume
from csi_oras.store.outbox import EntryState, OutboxEntry, gone
from csi_oras.transfer.export import export as export_files
from csi_oras.transfer.write_back import opened_written

_MODULES = {"ls": "outbox:ls", "retry": "outbox:retry", "export": "outbox:export", "drop": "outbox:drop"}
_ID = click.argument("name", metavar="ID")
_Exported = tuple[dict[str, Any], str, tuple[Uncarriable, ...]]
"""What an export made, for programs and for people, and what it left out."""


@click.command(cls=Commands, modules=_MODULES)
def outbox() -> None:
    """Look after what pods wrote and no registry has yet."""


@click.command("ls", short_help="List what waits to be pushed, the oldest first.")
@store_options
@reports_errors
def ls(as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """List the volumes that wait to be pushed, the oldest first, and why they wait."""
    rows: list[dict[str, Any]] = []
    if has_store(options):
        with application(options, to_look=True) as app:
            documents = [(entry, _document(entry)) for entry in app.captured.all()]
        rows = [document for entry, document in documents if entry.writing.directory.exists()]  # not pushed meanwhile
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        _show(rows)
    else:
        click.echo("the outbox is empty")


@click.command("retry", short_help="Have entries pushed again: these, or all.")
@click.argument("names", metavar="[ID...]", nargs=-1)
@click.option("--now", is_flag=True, help="Push them here and now, without a driver; goes by --config.")
@store_options
@reports_errors
def retry(names: tuple[str, ...], now: bool, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Have entries of the outbox pushed again, these or all of them, whatever became of them before.

    The driver does so within seconds, or when it starts. Ends with 1 if one cannot be tried, or with --now pushed;
    of all of them, one that is being pushed already is left to that.
    """
    rows: list[dict[str, Any]] = []
    if names or has_store(options):
        with application(options) as app:
            entries = [app.captured.find(name) for name in names] if names else app.captured.all()
            rows = [_tried(app, entry, now=now, is_named=bool(names)) for entry in entries]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        for row in rows:
            otherwise = "is being pushed at this moment" if row["pushing"] else "is tried again"
            click.echo(f"{row['id']}  {row['error'] or row['reference'] or otherwise}")
        if not rows:
            click.echo("the outbox is empty")
    if any(row["error"] for row in rows):
        sys.exit(1)


@click.command("export", short_help="Copy the files of an entry to a directory.")
@_ID
@click.option("--to", "directory", type=click.Path(path_type=Path), required=True, help="A new or empty directory.")
@click.option("--oci", "how", flag_value="oci", help="As an OCI layout with what would be pushed, under its tag.")
@click.option(
    "--written", "how", flag_value="written", help="Only what the pod wrote, whatever became of what is below."
)
@store_options
@reports_errors
def export(name: str, directory: Path, how: str | None, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Copy all that a volume showed its pod last to a directory; the entry stays.

    What no artifact can carry is named and not copied; its bytes are in the entry's directory in the outbox.
    """
    exported = {"oci": _layout, "written": _written}.get(how or "", _files)
    with working("copying"), _entry(options, name) as (app, entry), entry.locked():
        made, summary, uncarriable = exported(app, entry, directory)
    left = [{"name": one.name, "reason": one.reason} for one in uncarriable]
    if as_json:
        click.echo(json.dumps({"id": name, "directory": str(directory), **made, "left": left}))
        return
    for one in left:
        click.echo(f'left out: "{one["name"]}" {one["reason"]}')
    click.echo(f"{summary} in {directory}")


@click.command("drop", short_help="Throw away what a pod wrote.")
@_ID
@click.option("--yes", is_flag=True, help="Do it: nobody else has these bytes.")
@store_options
@reports_errors
def drop(name: str, yes: bool, as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Throw away an entry of the outbox with all that its pod wrote."""
    if not yes:
        raise click.UsageError("--yes is needed: what the pod wrote is nowhere else")
    with _entry(options, name) as (app, entry):
        app.outbox().drop(entry)
    click.echo(json.dumps({"id": name}) if as_json else f"{name} is gone")


@contextmanager
def _entry(options: dict[str, Any], name: str) -> Iterator[tuple[Application, OutboxEntry]]:
    if not has_store(options):
        raise gone(name)
    with application(options) as app:
        yield app, app.captured.find(name)


def _files(app: Application, entry: OutboxEntry, directory: Path) -> _Exported:
    with app.volume_pusher().opened(entry.writing) as (_, opened):
        return _copied(opened, directory)


def _written(_app: Application, entry: OutboxEntry, directory: Path) -> _Exported:
    with opened_written(entry.writing) as opened:
        return _copied(opened, directory)


def _copied(opened: Volume, directory: Path) -> _Exported:
    found = export_files(opened, directory)
    return {"files": len(found.entries)}, count_files(len(found.entries)), found.uncarriable


def _layout(app: Application, entry: OutboxEntry, directory: Path) -> _Exported:
    found = app.volume_pusher().export(entry.writing, directory)
    return {"digest": str(found.digest), "tag": found.tag}, f"{found.tag}@{found.digest}", found.left


def _tried(app: Application, entry: OutboxEntry, *, now: bool, is_named: bool) -> dict[str, Any]:
    """Have an entry tried again, and say what came of it."""
    row = {"id": entry.id, "reference": "", "error": "", "pushing": False}
    try:
        if now:
            row["reference"] = str(app.outbox().attempt(entry).reference)
        else:
            entry.retry()
    except (VolumeBusyError, VolumeNotFoundError) as error:  # it is being pushed, or was at this moment
        row["pushing"] = True
        row["error"] = error.message if is_named else ""
    except CsiOrasError as error:
        row["error"] = error.message
    return row


def _document(entry: OutboxEntry) -> dict[str, Any]:
    state, error = entry.shown(), ""
    reference = namespace = pod = ""
    size = 0
    try:
        size = entry.size()
        volume = entry.writing.volume()
        reference, namespace, pod = str(volume.reference), volume.namespace, volume.pod
    except CsiOrasError as broken:
        error = broken.message
    return {
        "id": entry.id,
        "reference": reference,
        "state": str(state.state),
        "attempts": state.attempts,
        "error": state.error or error,
        "namespace": namespace,
        "pod": pod,
        "bytes": size,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "REFERENCE", "STATE", "POD"):
        table.add_column(column, overflow="fold")
    for column in ("ATTEMPTS", "SIZE"):
        table.add_column(column, justify="right")
    table.add_column("ERROR", overflow="fold")
    for row in rows:
        pod = printable("/".join(filter(None, (row["namespace"], row["pod"]))))
        style = "red" if row["state"] == EntryState.FAILED else ""
        counts = (str(row["attempts"]), decimal(row["bytes"]))
        cells = (row["id"], row["reference"], row["state"], pod, *counts, row["error"])
        table.add_row(*map(Text, cells), style=style)
    console().print(table)
