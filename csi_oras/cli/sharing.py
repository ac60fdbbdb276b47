"""`store du`: what artifacts take, and what is saved because files are stored once."""

import json
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import track
from rich.table import Table

from csi_oras.app import Application
from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import console, count_files, working
from csi_oras.store.catalogue import CataloguedArtifact
from csi_oras.store.sharing import Files, Share, Shares, Sharing, measure, on_disk


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    """The store, the bytes that its directory takes, and its artifacts, those that take most first."""

    sharing: Sharing
    disk: int
    artifacts: list[tuple[CataloguedArtifact, Share]]


@click.command("du", short_help="Show what artifacts take, and what is stored once.")
@store_options
@reports_errors
def du(as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Show what artifacts take on disk, the largest first, and what is saved because files are stored once.

    OWN goes when the artifact is removed; SHARED stays as long as another artifact has it.
    """
    usage = _Usage(sharing=Sharing(), disk=0, artifacts=[])
    if has_store(options):
        with application(options, to_look=True) as app:
            usage = _measure(app)
    if as_json:
        click.echo(json.dumps(_document(usage)))
    else:
        _show(usage)


def _measure(app: Application) -> _Usage:
    with working("looking at blobs and unpacked files"):
        sharing, disk, shares = measure(app.paths), on_disk(app.paths), Shares(app.paths, app.database)
    error = Console(stderr=True)
    artifacts = track(
        app.catalogue.artifacts(), "artifacts", console=error, transient=True, disable=not error.is_terminal
    )
    measured = [(artifact, shares.of(artifact.digest)) for artifact in artifacts]
    measured.sort(key=lambda pair: pair[1].own + pair[1].shared, reverse=True)
    return _Usage(sharing=sharing, disk=disk, artifacts=measured)


def _document(usage: _Usage) -> dict[str, Any]:
    sharing = usage.sharing
    return {
        "diskBytes": usage.disk,
        "shownBytes": sharing.shown,
        "savedBytes": {"links": sharing.saved_by_links, "reflinks": sharing.saved_by_reflinks},
        "blobs": _counted(sharing.blobs),
        "objects": _counted(sharing.objects),
        "notShown": _counted(sharing.hidden),
        "unfinishedBytes": sharing.unfinished,
        "otherBytes": _others(usage),
        "artifacts": [
            {
                "digest": str(artifact.digest),
                "references": list(artifact.references),
                "shownBytes": share.shown,
                "ownBytes": share.own,
                "sharedBytes": share.shared,
            }
            for artifact, share in usage.artifacts
        ],
    }


def _counted(files: Files) -> dict[str, int]:
    return {"count": files.count, "bytes": files.size}


def _others(usage: _Usage) -> int:
    """Return what is neither content nor unfinished: directories, the database, what is in the making."""
    sharing = usage.sharing
    known = sharing.blobs.size + sharing.objects.size + sharing.unfinished - sharing.saved_by_reflinks
    return max(usage.disk - known, 0)


def _show(usage: _Usage) -> None:
    if usage.artifacts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column, justify in (("DIGEST", "left"), ("SHOWN", "right"), ("OWN", "right"), ("SHARED", "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        table.add_column("REFERENCES", overflow="fold")
        for artifact, share in usage.artifacts:
            sizes = (decimal(size) for size in (share.shown, share.own, share.shared))
            table.add_row(artifact.digest.short, *sizes, "\n".join(artifact.references))
        console().print(table)
        console().print()
    console().print(_totals(usage))


def _totals(usage: _Usage) -> Table:
    sharing = usage.sharing
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    rows = (
        ("shown", sharing.shown, "what volumes can see"),
        ("on disk", usage.disk, ""),
        ("  blobs", sharing.blobs.size, count_files(sharing.blobs.count)),
        ("    not shown", sharing.hidden.size, f"{count_files(sharing.hidden.count)}: unpacked layers, manifests"),
        ("  unpacked", sharing.objects.size, count_files(sharing.objects.count)),
        ("  unfinished", sharing.unfinished, "go on with the next pull"),
        ("  other", _others(usage), "directories, database, what is in the making"),
        ("saved by links", sharing.saved_by_links, "files that several names show"),
        ("saved by reflinks", sharing.saved_by_reflinks, "files that share their blocks with a blob"),
    )
    for name, size, meaning in rows:
        table.add_row(name, decimal(size), meaning)
    return table
