"""The guide: how the tour is told. Headings, why, what was asked, what came back; colours on a terminal only.

Whatever is said of a call is taken from the message that is sent, so that the telling cannot differ from the doing.
"""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

_WIDEST = 96
_SHORT_ID = 16
_FROM_KUBERNETES = "csi.storage.k8s.io/"
_MAPS = ("volume_context", "parameters")


class Guide:
    """Tells the tour on standard output."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty()
        self._console = Console(force_terminal=terminal, highlight=False)
        self._width = min(self._console.width, _WIDEST) if terminal else _WIDEST
        self._chapters = 0
        self._told: set[str] = set()
        self._place = ""

    def title(self, text: str, why: str) -> None:
        """Begin the tour."""
        self._line(text, "bold")
        self._prose(why)

    def settle(self, place: Path) -> None:
        """Write `place` as $DEMO from here on."""
        self._line(f"DEMO={place}", "bold")
        self._place = str(place)

    def chapter(self, heading: str, why: str) -> None:
        """Begin a chapter with what it shows and why that matters."""
        self._chapters += 1
        self._line("")
        self._line(f"{self._chapters}. {heading}", "bold")
        self._prose(why)

    def call(self, request: Message) -> None:
        """Show a call: the first of its kind with all its fields, later ones with what tells them apart."""
        method = request.DESCRIPTOR.name.removesuffix("Request")
        fields = MessageToDict(request, preserving_proto_field_name=True)
        if method in self._told or not fields:
            self.action(" ".join([method, *_brief(fields)]))
        else:
            self._told.add(method)
            self.action(method)
            for line in _yaml(fields):
                self._line(f"       {self._shortened(line)}", "cyan")

    def action(self, text: str) -> None:
        """Show something that is done."""
        self._line(f"   > {self._shortened(text)}", "cyan")

    def result(self, *lines: str) -> None:
        """Show what came of it."""
        self._block(map(self._shortened, lines))

    def response(self, response: Message) -> None:
        """Show the answer to a call."""
        self.result(*_yaml(MessageToDict(response, preserving_proto_field_name=True)))

    def event(self, text: str) -> None:
        """Show what stands on the pod."""
        self._block([text], "yellow")

    def note(self, text: str) -> None:
        """Say what a result means."""
        self._prose(text)

    def tree(self, root: Path) -> None:
        """Show the files below a directory."""
        self.result(*_tree(root))

    def _shortened(self, text: str) -> str:
        return text.replace(self._place, "$DEMO") if self._place else text

    def _block(self, lines: Iterable[str], style: str = "") -> None:
        """Print lines that came back; the arrow tells them from what was sent."""
        for number, line in enumerate(lines):
            self._line(f"     {'   ' if number else '-> '}{line}", style)

    def _prose(self, text: str) -> None:
        self._line(textwrap.fill(text, self._width, initial_indent="   ", subsequent_indent="   "))

    def _line(self, text: str, style: str = "") -> None:
        """Print a line as it is: a terminal wraps it, a pipe never sees it cut."""
        self._console.print(Text(text, style=style), soft_wrap=True)


def _brief(fields: dict[str, Any]) -> list[str]:
    attributes = fields.get("volume_context") or fields.get("parameters") or {}
    volume_id = str(fields.get("volume_id", ""))
    shown = {
        "name": fields.get("name"),
        "volume_id": f"{volume_id[:_SHORT_ID]}..." if len(volume_id) > _SHORT_ID else volume_id,
        **{key: value for key, value in attributes.items() if not key.startswith(_FROM_KUBERNETES)},
    }
    return [f"{key}={value}" for key, value in shown.items() if value]


def _yaml(fields: dict[str, Any]) -> list[str]:
    ordered = {key: _users_first(value) if key in _MAPS else value for key, value in fields.items()}
    return yaml.safe_dump(ordered, default_flow_style=False, sort_keys=False, width=1000).splitlines()


def _users_first(values: dict[str, str]) -> dict[str, str]:
    """Put what a user wrote before what the cluster adds; protobuf keeps no order."""
    return dict(sorted(values.items(), key=lambda item: (item[0].startswith(_FROM_KUBERNETES), item[0])))


def _tree(directory: Path, indent: str = "") -> Iterator[str]:
    for entry in sorted(directory.iterdir()):
        if entry.is_dir():
            yield f"{indent}{entry.name}/"
            yield from _tree(entry, f"{indent}  ")
        else:
            yield f"{indent}{entry.name}  ({decimal(entry.stat().st_size)})"
