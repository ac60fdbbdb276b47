"""What commands show a person: text that a pipe can read."""

from contextlib import AbstractContextManager, nullcontext

from rich.console import Console

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def console() -> Console:
    """A console that never cuts what a pipe reads."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=500)


def working(text: str) -> AbstractContextManager[object]:
    """Say on standard error, where that is a terminal, what takes a moment."""
    console = Console(stderr=True)
    return console.status(text) if console.is_terminal else nullcontext()


def count_files(count: int) -> str:
    """Return `1 file`, `2 files` and so on."""
    return f"{count} file" if count == 1 else f"{count} files"


def ago(seconds: float) -> str:
    """Return how long it is since something was: `5 min ago`."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"
