"""Progress on a terminal: a bar for each large blob that is under way, and one for all of them together.

However many blobs an artifact has, the lines are few: small blobs, and what is waiting or done, count in the last.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from csi_oras.errors import printable
from csi_oras.telemetry.progress import Counter, Progress, human_size, rate

_MOST_BARS = 8
_SMALL_BYTES = 4 << 20
"""Blobs up to this size come and go faster than one can read."""
_DRAWS_PER_SECOND = 5
_WIDEST = 110
_LONGEST_SECONDS = 100 * 3600


@contextmanager
def bars(progress: Progress, title: str) -> Iterator[None]:
    """Show progress bars on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    console.print(Text(printable(title)))
    screen = Screen(progress, min(console.width, _WIDEST))
    with Live(get_renderable=screen.draw, console=console, refresh_per_second=_DRAWS_PER_SECOND, transient=True):
        yield


class Screen:
    """Draws the counters as they stand; a blob keeps its line until it is here."""

    def __init__(self, progress: Progress, width: int) -> None:
        """Draw `progress` on lines of so many columns."""
        self._progress = progress
        self._width = width
        self._shown: list[Hashable] = []

    def draw(self) -> RenderableType:
        """Draw the blobs under way, and the sum."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.width = self._width
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=2)
        for _ in ("bytes", "rate", "time left"):
            table.add_column(justify="right", no_wrap=True)
        named = self._progress.named
        for name, counter in self._chosen(named):
            _add_row(table, Text(printable(name)), [counter])
        if named:
            counters = [counter for _, _, counter in named]
            here = sum(counter.done >= counter.total for counter in counters)
            what = self._progress.activity or f"{here} of {len(counters)} blobs"
            _add_row(table, Text(what, style="bold"), counters)
        return table

    def _chosen(self, named: list[tuple[Hashable, str, Counter]]) -> list[tuple[str, Counter]]:
        running = {
            key: (name, counter)
            for key, name, counter in named
            if counter.total > _SMALL_BYTES and counter.fetched and counter.done < counter.total
        }
        kept = [key for key in self._shown if key in running]
        self._shown = [*kept, *(key for key in running if key not in kept)][:_MOST_BARS]
        return [running[key] for key in self._shown]


def _add_row(table: Table, label: Text, counters: list[Counter]) -> None:
    done, total = sum(counter.done for counter in counters), sum(counter.total for counter in counters)
    speed = rate(counters)
    table.add_row(
        label,
        ProgressBar(total=max(total, 1), completed=done),
        f"{human_size(done)} of {human_size(total)}",
        f"{human_size(speed)}/s" if speed >= 1 else "",
        _time_left((total - done) / speed) if speed >= 1 else "",
    )


def _time_left(seconds: float) -> str:
    if seconds > _LONGEST_SECONDS:
        return "days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
