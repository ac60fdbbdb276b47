"""What commands show a person: a progress bar on a terminal, and text that a pipe can read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from csi_oras.errors import printable
from csi_oras.telemetry.progress import Progress as TransferProgress


@contextmanager
def bar(progress: TransferProgress, title: str) -> Iterator[None]:
    """Show a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    console.print(Text(printable(title)))
    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with _Bar(progress, *columns, console=console, transient=True):
        yield


class _Bar(Progress):
    """A bar that looks at the transfer's own counters whenever it is drawn."""

    def __init__(self, transfer: TransferProgress, *columns: Any, **options: Any) -> None:
        self._transfer = transfer
        super().__init__(*columns, **options)
        self.add_task("", total=None)

    def get_renderables(self) -> Any:
        """Draw the counters as they stand now."""
        for task in self.task_ids:
            transfer = self._transfer
            self.update(task, total=transfer.total or None, completed=transfer.done, description=transfer.activity)
        return super().get_renderables()


def console() -> Console:
    """A console that never cuts what a pipe reads."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=500)


def count_files(count: int) -> str:
    """Return `1 file`, `2 files` and so on."""
    return f"{count} file" if count == 1 else f"{count} files"
