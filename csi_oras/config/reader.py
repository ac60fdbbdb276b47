"""Reading YAML with the line at hand: each reader turns one node into one checked value."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeVar

import yaml

from csi_oras.errors import InvalidRequestError, printable
from csi_oras.oci.glob import Glob
from csi_oras.oci.wish import Wish

_UNITS = {
    "": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15})(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_DURATION = re.compile(r"(?=\d)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)

_NAMESPACES = re.compile(r"[a-z0-9*?-]{1,63}", re.ASCII)
_REPOSITORIES = re.compile(r"(?!/)(?!.*//)[A-Za-z0-9._:/\[\]*?-]{1,1000}", re.ASCII)
"""Also what has no slash and matches nothing: as a glob it is one."""
_NULL = "tag:yaml.org,2002:null"

_Section = TypeVar("_Section")
Reader = Callable[[yaml.Node], Any]


class WrongValueError(Exception):
    """What is wrong, on which line, and in `keys` the way there, outermost first."""

    def __init__(self, node: yaml.Node, cause: str) -> None:
        self.line = node.start_mark.line + 1
        self.keys: list[str] = []
        super().__init__(cause)

    def __str__(self) -> str:
        cause = super().__str__()
        return f"{'.'.join(self.keys)}: {cause}" if self.keys else cause


def _scalar(node: yaml.Node, expected: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise WrongValueError(node, f"is not {expected}")
    return str(node.value)


def read_size(node: yaml.Node) -> int:
    """Read `16Mi` and its like as bytes."""
    match = _SIZE.fullmatch(_scalar(node, "a size"))
    if match is None:
        raise WrongValueError(node, f'"{printable(node.value, 80)}" is not a size such as 16Mi')
    return int(match[1]) * _UNITS[match[2] or ""]


def size_between(least: int, most: int) -> Reader:
    """Return a reader of sizes between `least` and `most` bytes."""

    def read(node: yaml.Node) -> int:
        size = read_size(node)
        if not least <= size <= most:
            raise WrongValueError(node, f'"{printable(node.value, 80)}" is not between {least} and {most} bytes')
        return size

    return read


def read_duration(node: yaml.Node) -> int:
    """Read `1h30m` and its like as seconds."""
    match = _DURATION.fullmatch(_scalar(node, "a duration"))
    if match is None:
        raise WrongValueError(node, f'"{printable(node.value, 80)}" is not a duration such as 1h30m')
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def duration_from(least: int) -> Reader:
    """Return a reader of durations of `least` seconds or more."""

    def read(node: yaml.Node) -> int:
        seconds = read_duration(node)
        if seconds < least:
            raise WrongValueError(node, f'"{printable(node.value, 80)}" is less than {least}s')
        return seconds

    return read


def number(least: int, most: int) -> Reader:
    """Return a reader of integers between `least` and `most`."""

    def read(node: yaml.Node) -> int:
        text = _scalar(node, "a number")
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            raise WrongValueError(node, f'"{printable(text, 80)}" is not a number from {least} to {most}')
        return int(text)

    return read


def read_boolean(node: yaml.Node) -> bool:
    """Read true or false."""
    text = _scalar(node, "true or false")
    if text not in ("true", "false"):
        raise WrongValueError(node, f'"{printable(text, 80)}" is not true or false')
    return text == "true"


def choice(*choices: str) -> Reader:
    """Return a reader of one of `choices`."""

    def read(node: yaml.Node) -> str:
        text = _scalar(node, "a text")
        if text not in choices:
            raise WrongValueError(node, f'"{printable(text, 80)}" is not one of {", ".join(choices)}')
        return text

    return read


def read_text(node: yaml.Node) -> str:
    """Read any text; null is none."""
    text = _scalar(node, "a text")
    if node.tag == _NULL:
        raise WrongValueError(node, 'is null; write "" for nothing')
    return text


def read_repositories(node: yaml.Node) -> Glob:
    """Read a glob over registry/repository; a URL is a mistake."""
    text = read_text(node)
    if not _REPOSITORIES.fullmatch(text):
        cause = f'"{printable(text, 80)}" is no registry/repository, nor a glob over them such as ghcr.io/acme/**'
        raise WrongValueError(node, cause)
    return Glob.parse(text)


def read_namespaces(node: yaml.Node) -> Glob:
    """Read a glob over namespaces, which are DNS labels: what no namespace is called would never match."""
    text = read_text(node)
    if not _NAMESPACES.fullmatch(text):
        raise WrongValueError(
            node, f'"{printable(text, 80)}" is no namespace, nor a glob over namespaces such as team-*'
        )
    return Glob.parse(text)


def read_wish(node: yaml.Node) -> Wish:
    """Read a reference, or a glob over tags."""
    try:
        return Wish.parse(read_text(node))
    except InvalidRequestError as error:
        raise WrongValueError(node, error.message) from None


def list_of(read: Reader) -> Reader:
    """Return a reader of lists."""

    def read_all(node: yaml.Node) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise WrongValueError(node, "is not a list")
        return tuple(read(item) for item in node.value)

    return read_all


def section(kind: type[_Section]) -> Callable[[yaml.Node], _Section]:
    """Return a reader of mappings whose keys are the fields of a dataclass."""
    return lambda node: read_section(kind, node)


def key(name: str, read: Reader, default: Any) -> Any:
    """Return the dataclass field of an optional key."""
    return field(default=default, metadata={"key": name, "read": read})


def needed(name: str, read: Reader) -> Any:
    """Return the dataclass field of a key that must be given."""
    return field(metadata={"key": name, "read": read})


def read_section(kind: type[_Section], node: yaml.Node) -> _Section:
    """Read a mapping into a dataclass whose fields were made by `key` and `needed`.

    Raises:
        WrongValueError: an unknown, repeated or missing key, or a wrong value.
    """
    if not isinstance(node, yaml.MappingNode):
        raise WrongValueError(node, "is not a mapping")
    fields = {item.metadata["key"]: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if name not in fields:
            raise WrongValueError(
                key_node, f'key "{printable(name, 80)}" is not known (there are: {", ".join(fields)})'
            )
        if fields[name].name in values:
            raise WrongValueError(key_node, f'key "{name}" is given twice')
        values[fields[name].name] = _read_value(name, fields[name].metadata["read"], value_node)
    for name, item in fields.items():
        if item.name not in values and item.default is dataclasses.MISSING:
            raise WrongValueError(node, f'key "{name}" is missing')
    return kind(**values)


def read_document(kind: type[_Section], node: yaml.Node | None) -> _Section:
    """Read the root of a file, where nothing means that every key has its default.

    Raises:
        WrongValueError: as `read_section`.
    """
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL):
        return kind()
    return read_section(kind, node)


def line_of(node: yaml.Node | None, path: str) -> int:
    """Return the line on which the value at `path` (keys with dots between) begins."""
    for name in path.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for given, value in pairs if given.value == name), node)
    return node.start_mark.line + 1 if node else 1


def _read_value(name: str, read: Reader, node: yaml.Node) -> Any:
    try:
        return read(node)
    except WrongValueError as error:
        error.keys.insert(0, name)
        raise
