"""The hosts.toml of containerd (docs/hosts.md, core/remotes/docker/config/hosts.go), read into values.

What containerd reads we read as it does; what it cannot read it replaces by defaults, and we refuse.
"""

import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csi_oras.errors import BadResponseError, printable
from csi_oras.registry.channel import TrustSettings
from csi_oras.registry.durations import parse_duration
from csi_oras.registry.origin import Origin, target_of
from csi_oras.telemetry.secrets import Secret


class Capability(StrEnum):
    """What a host is asked for."""

    PULL = "pull"
    RESOLVE = "resolve"
    PUSH = "push"
    REFERRERS = "referrers"


ALL = frozenset(Capability)
_KEYS = frozenset({"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"})
_ROOT_KEYS = _KEYS | {"server", "host"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect"})
"""Headers by which a request would not be the one that was meant."""


class WrongHostsFileError(ValueError):
    """A hosts.toml that cannot be read; its text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """One host of a hosts.toml; `url` ends where repository names begin, and is empty for the registry's own."""

    url: str = ""
    capabilities: frozenset[Capability] = ALL
    trust: TrustSettings = field(default_factory=TrustSettings)
    headers: Mapping[str, Secret] = field(default_factory=dict)
    dial_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFile:
    """The hosts in the order in which they are asked, the server last, and keys that mean nothing to us."""

    hosts: tuple[HostEntry, ...]
    unknown: tuple[str, ...] = ()


def parse(text: str, directory: Path) -> HostsFile:
    """Read the text of a hosts.toml that lies in `directory`.

    Raises:
        WrongHostsFileError: it cannot be read.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongHostsFileError(f"is not TOML ({printable(str(error), 120)})") from None
    except RecursionError:
        raise WrongHostsFileError("is not TOML (nested too deeply)") from None
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise WrongHostsFileError('"host" is no table')
    entries = [_entry(name, _table(table, f'host."{name}"'), directory) for name, table in tables.items()]
    server = _typed(document, "server", str, "")
    entries.append(_entry(server, document, directory, root=True))
    return HostsFile(hosts=tuple(entries), unknown=tuple(_unknown(document, tables)))


def _unknown(document: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield from (key for key in document if key not in _ROOT_KEYS)
    for name, table in tables.items():
        yield from (f'host."{name}".{key}' for key in table if key not in _KEYS)


def _entry(server: str, table: Mapping[str, Any], directory: Path, *, root: bool = False) -> HostEntry:
    try:
        override = _typed(table, "override_path", bool, default=False)
        url = _url(server, override=override) if server or not root else ""
        entry = HostEntry(
            url=url,
            capabilities=_capabilities(table),
            trust=TrustSettings(
                authorities=tuple(directory / name for name in _texts(table.get("ca", []), "ca")),
                clients=tuple(_client(pair, directory) for pair in _listed(table.get("client", []))),
                skip_verify=_typed(table, "skip_verify", bool, default=None),
            ),
            headers=_headers(_table(table.get("header", {}), "header")),
            dial_seconds=_dial_seconds(_typed(table, "dial_timeout", str, "")),
        )
    except (WrongHostsFileError, BadResponseError) as error:
        cause = error.cause if isinstance(error, BadResponseError) else str(error)
        shown = server.rpartition("@")[2]  # what stands before it may be a password
        where = "server" if root else f'host "{shown}"'
        raise WrongHostsFileError(f"{printable(where, 200)}: {cause}") from None
    return entry


def _url(server: str, *, override: bool) -> str:
    """Return the URL of a host with the root of its API, as containerd puts it together."""
    text = server if "://" in server else f"https://{server}"
    Origin.of(text)
    target_of(text)
    parts = urlsplit(text)
    path = posixpath.normpath(f"/{parts.path.strip('/')}").strip("/")
    if not override and path != "v2" and not path.endswith("/v2"):
        path = f"{path}/v2".lstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}" + (f"/{path}" if path else "")


def _capabilities(table: Mapping[str, Any]) -> frozenset[Capability]:
    names = table.get("capabilities", [])
    if not isinstance(names, list):
        raise WrongHostsFileError('"capabilities" is no list')
    try:
        return frozenset(Capability(name.lower()) for name in _texts(names, "capabilities")) or ALL
    except ValueError as error:
        if isinstance(error, WrongHostsFileError):
            raise
        raise WrongHostsFileError(f"unknown capability ({printable(str(error), 60)})") from None


def _client(pair: object, directory: Path) -> tuple[Path, Path | None]:
    if isinstance(pair, str):
        return directory / pair, None
    texts = _texts(pair, "client") if isinstance(pair, list) else []
    if len(texts) != 2:  # noqa: PLR2004 (a pair)
        raise WrongHostsFileError('"client" is no file, list of files, or list of pairs')
    return directory / texts[0], directory / texts[1] if texts[1] else None


def _headers(table: Mapping[str, Any]) -> dict[str, Secret]:
    """Return headers; their values are often somebody's token."""
    headers: dict[str, str] = {}
    for name, value in table.items():
        text = ", ".join(_texts(value, "header"))  # several lines of one header mean the same (RFC 9110, 5.3)
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(text):
            raise WrongHostsFileError(f'header "{printable(name, 60)}" has characters that have no place in one')
        if name.lower() in _OURS:
            raise WrongHostsFileError(f'header "{name}" cannot be set')
        key = name.lower()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return {name: Secret(text) for name, text in headers.items()}


def _dial_seconds(text: str) -> float | None:
    try:
        return (parse_duration(text) or None) if text else None
    except ValueError:
        raise WrongHostsFileError('"dial_timeout" is no duration such as 500ms or 3s') from None


def _table(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WrongHostsFileError(f'"{printable(name, 100)}" is no table')
    return value


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: object, name: str) -> list[str]:
    texts = _listed(value)
    if not all(isinstance(text, str) for text in texts):
        raise WrongHostsFileError(f'"{name}" is no text or list of texts')
    return texts


def _typed(table: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = table.get(name, default)
    if value is not default and not isinstance(value, kind):
        raise WrongHostsFileError(f'"{name}" is no {"text" if kind is str else "true or false"}')
    return value
