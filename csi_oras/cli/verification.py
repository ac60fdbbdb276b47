"""`store verify`: hold everything in the store against its digest."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from csi_oras.cli.options import application, has_store, reports_errors, store_options
from csi_oras.cli.output import console, count_files
from csi_oras.store.verification import ContentVerifier, Stored

_THREADS = 2
"""One reads while another hashes."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How many files and bytes were checked, and which of them are corrupt."""

    checked: int = 0
    size: int = 0
    corrupt: list[Stored] = field(default_factory=list)


@click.command("verify", short_help="Hold everything in the store against its digest.")
@store_options
@reports_errors
def verify(as_json: bool, **options: Any) -> None:  # noqa: FBT001 (click's call)
    """Read every blob and unpacked file again, and hold it against its digest.

    What is corrupt is set aside: volumes that show it stay as they are, and the next ones get it whole. The driver does
    the same once a week.
    """
    outcome = Outcome()
    if has_store(options):
        with application(options, to_look=True) as app:
            outcome = _verify_all(app.verifier)
    if as_json:
        corrupt = [str(item.digest) for item in outcome.corrupt]
        click.echo(json.dumps({"checked": outcome.checked, "bytes": outcome.size, "corrupt": corrupt}))
    else:
        _show(outcome)
    if outcome.corrupt:
        sys.exit(1)


def _verify_all(verifier: ContentVerifier) -> Outcome:
    outcome, lock, waiting = Outcome(), threading.Lock(), verifier.stored()
    with _bar(verifier) as read, ThreadPoolExecutor(_THREADS) as pool:

        def work() -> None:
            while True:
                with lock:
                    item = next(waiting, None)
                if item is None:
                    return
                checked = verifier.check(item, read)
                with lock:
                    outcome.checked += checked is not None
                    outcome.size += checked.size if checked else 0
                    outcome.corrupt += [item] if checked and not checked.is_true else []

        for worker in [pool.submit(work) for _ in range(_THREADS)]:
            worker.result()
    outcome.corrupt.sort(key=lambda item: item.place)
    return outcome


@contextmanager
def _bar(verifier: ContentVerifier) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, where that is a terminal, and yield what advances it."""
    error = Console(stderr=True)
    if not error.is_terminal:
        yield lambda _: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error, transient=True) as progress:
        task = progress.add_task("", total=sum(map(verifier.size, verifier.stored())))
        yield lambda count: progress.advance(task, count)


def _show(outcome: Outcome) -> None:
    for item in outcome.corrupt:
        console().print(f"corrupt {item.kind} {item.digest}: set aside, the next volume fetches it again")
    said = f"{count_files(outcome.checked)}, {decimal(outcome.size)}"
    click.echo(f"{said}: {len(outcome.corrupt)} corrupt" if outcome.corrupt else f"{said}: all of it is true")
