"""Hosts directories: what containerd's certs.d says about a registry, read again whenever a file changes.

A registry without a directory is its own only host. A directory that cannot be read is an error and never a
default: what it asks for may be a protection.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from csi_oras.errors import RegistryUnavailableError
from csi_oras.registry import hosts, hosts_file, named_files
from csi_oras.registry.channel import Channel, TrustSettings
from csi_oras.registry.host import RegistryHost
from csi_oras.registry.hosts_file import HostEntry, WrongHostsFileError
from csi_oras.telemetry.logs import logger

HOSTS_FILE = "hosts.toml"
_LARGEST_FILE = 1 << 20
_MOST_REGISTRIES = 1024

_Mark = tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What was read for a registry, and how the files looked then."""

    hosts: tuple[RegistryHost, ...]
    roots: tuple[str, ...]
    marks: dict[Path, _Mark] = field(default_factory=dict)

    def is_fresh(self, roots: tuple[str, ...]) -> bool:
        return self.roots == roots and all(_mark(path) == mark for path, mark in self.marks.items())


class HostsDirectories:
    """The hosts of each registry, by the directories that node policy names."""

    def __init__(self, roots: Callable[[], Sequence[str]] = tuple) -> None:
        self._roots = roots
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}

    def hosts_of(self, registry: str) -> tuple[RegistryHost, ...]:
        """Return the hosts that serve `registry` in the order in which they are asked; the last is its server.

        Raises:
            RegistryUnavailableError: a directory, or a file that it names, cannot be read.
        """
        roots = tuple(self._roots())
        with self._lock:
            loaded = self._loaded.get(registry)
        if loaded is None or not loaded.is_fresh(roots):
            loaded = _load(registry, roots)
            with self._lock:
                if len(self._loaded) >= _MOST_REGISTRIES:
                    self._loaded.clear()
                self._loaded[registry] = loaded
        return loaded.hosts

    def directory_of(self, registry: str) -> Path | None:
        """Return the directory that speaks for `registry`, if there is one.

        Raises:
            RegistryUnavailableError: it cannot be told.
        """
        return _find(registry, self._roots(), {})


def _load(registry: str, roots: tuple[str, ...]) -> _Loaded:
    marks: dict[Path, _Mark] = {}
    directory = _find(registry, roots, marks)
    entries = _read(directory, marks) if directory else (HostEntry(),)
    for file in (file for entry in entries for file in entry.trust.files):
        marks[file] = _mark(file)
    return _Loaded(tuple(_host(entry, registry) for entry in entries), roots, marks)


def _find(registry: str, roots: Iterable[str], marks: dict[Path, _Mark]) -> Path | None:
    """Return the first directory for `registry` that exists; the marks of all that were looked at stay behind."""
    for directory in (Path(root) / name for root in roots for name in _directory_names(registry)):
        marks[directory] = _mark(directory)
        if marks[directory]:
            return directory
    return None


def _directory_names(registry: str) -> Iterator[str]:
    """Yield where containerd looks (config_unix.go): `host_port_`, `host:port` or `host`, and the default for all."""
    host, colon, port = registry.rpartition(":")
    if colon and host:
        yield f"{host}_{port}_"
    yield registry
    yield "_default"


def _read(directory: Path, marks: dict[Path, _Mark]) -> tuple[HostEntry, ...]:
    file = directory / HOSTS_FILE
    marks[file] = _mark(file)
    try:
        text = _text_of(file) if marks[file] else ""
        if not text:
            return (HostEntry(trust=_docker_files(directory)),)
        parsed = hosts_file.parse(text, directory)
    except WrongHostsFileError as error:
        raise RegistryUnavailableError(f"file {file}", str(error), "correct it, it is read again") from None
    except OSError as error:
        raise _unreadable(directory, error) from None
    for key in parsed.unknown:
        logger.warning("a key of a hosts file means nothing to this driver", file=str(file), key=key)
    return parsed.hosts


def _text_of(file: Path) -> str:
    try:
        return named_files.read(file, _LARGEST_FILE).decode()
    except OSError as error:
        raise WrongHostsFileError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise WrongHostsFileError("is not TOML (no UTF-8)") from None


def _docker_files(directory: Path) -> TrustSettings:
    """Read a directory as docker lays it out: CAs in *.crt, client certificates in *.cert with their *.key."""
    files = sorted(file for file in directory.iterdir() if not file.is_dir())
    keys = {file.stem: file for file in files if file.suffix == ".key"}
    return TrustSettings(
        authorities=tuple(file for file in files if file.suffix == ".crt"),
        clients=tuple((file, keys.get(file.stem)) for file in files if file.suffix == ".cert"),
    )


def _host(entry: HostEntry, registry: str) -> RegistryHost:
    url, capabilities = entry.url, entry.capabilities
    if not url:  # as containerd, which gives a server that is not named every capability
        url, capabilities = f"{hosts.base_url(registry)}/v2", hosts_file.ALL
    channel = None
    if entry.trust.are_given or entry.dial_seconds:
        tries_tls = entry.trust.are_given and url.startswith("http:")
        channel = Channel.make(entry.trust, dial_seconds=entry.dial_seconds, tries_tls=tries_tls)
    return RegistryHost.make(url, registry, capabilities=capabilities, headers=entry.headers, channel=channel)


def _mark(path: Path) -> _Mark:
    """Return what changes when a file does, or None where there is none.

    Raises:
        RegistryUnavailableError: it cannot be told.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _unreadable(path: Path, error: OSError) -> RegistryUnavailableError:
    cause = f"cannot be read ({error.strerror or os.strerror(error.errno or 0)})"
    return RegistryUnavailableError(f"hosts directory {path}", cause, "correct it, it is read again")
