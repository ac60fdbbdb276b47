"""The kubelet's CredentialProviderConfig: which plugins there are, and which images each is asked about.

An administrator points the driver at the kubelet's own file (or directory of files), so whatever else the kubelet
keeps there is passed over, and what would be dangerous is refused.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from csi_oras.errors import InvalidConfigError, printable
from csi_oras.oci.reference import Repository
from csi_oras.registry import named_files
from csi_oras.registry.coverage import Pattern
from csi_oras.registry.durations import parse_duration
from csi_oras.registry.plugin import Plugin

_LARGEST_FILE = 1 << 20
_SUFFIXES = (".json", ".yaml", ".yml")
_CONFIG_GROUP = "kubelet.config.k8s.io/"
_PLUGIN_GROUP = "credentialprovider.kubelet.k8s.io/"
_VERSIONS = frozenset({"v1", "v1beta1", "v1alpha1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A plugin, the images it is asked about, and how many seconds its answer holds if it does not say."""

    name: str
    plugin: Plugin
    images: tuple[Pattern, ...]
    seconds: float
    needs_token: bool

    def covers(self, repository: Repository) -> bool:
        """Say whether it is asked about `repository`."""
        return any(pattern.covers(repository) for pattern in self.images)


def files_of(path: str) -> list[Path]:
    """Return the files that a configuration consists of, in the order in which the kubelet reads them."""
    root = Path(path)
    return sorted(item for item in root.iterdir() if item.suffix in _SUFFIXES) if root.is_dir() else [root]


def version_of(path: str) -> tuple[object, ...]:
    """Return what changes whenever the configuration does.

    Raises:
        OSError: it cannot be looked at.
    """
    found = [(file, file.stat()) for file in files_of(path)]
    return tuple((str(file), status.st_mtime_ns, status.st_size, status.st_ino) for file, status in found)


def load(path: str, directory: str) -> tuple[Provider, ...]:
    """Read the providers of a configuration, whose programs are in `directory`.

    Raises:
        InvalidConfigError: it cannot be read, or is none.
    """
    providers: dict[str, Provider] = {}
    for file in files_of(path):
        for provider in _read(file, directory):
            if provider.name in providers:
                raise InvalidConfigError(str(file), f'names the provider "{provider.name}" twice', "correct it")
            providers[provider.name] = provider
    return tuple(providers.values())


def _read(file: Path, directory: str) -> Iterator[Provider]:
    try:
        document = yaml.safe_load(named_files.read(file, _LARGEST_FILE))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # of YAML only the kind of mistake: an environment variable may be a secret
        reason = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise InvalidConfigError(str(file), f"cannot be read ({reason})", "correct it") from None
    try:
        yield from (_provider(entry, directory) for entry in _entries(document))
    except (ValueError, TypeError, KeyError) as error:
        cause = error.args[0] if type(error) is ValueError else "is no CredentialProviderConfig"
        raise InvalidConfigError(str(file), printable(str(cause), 200), "correct it") from None


def _entries(document: Any) -> list[Any]:
    version, kind = (document.get(key) for key in ("apiVersion", "kind")) if isinstance(document, dict) else ("", "")
    if kind != "CredentialProviderConfig" or not _is_version(version, _CONFIG_GROUP):
        raise ValueError("is no CredentialProviderConfig")
    entries = document.get("providers")
    if not isinstance(entries, list) or not entries:
        raise ValueError("names no providers")
    return entries


def _provider(entry: dict[str, Any], directory: str) -> Provider:
    name, version = entry["name"], entry["apiVersion"]
    if not isinstance(name, str) or not _is_name(name):
        raise ValueError(f'"{name}" is no name of a provider')
    if not _is_version(version, _PLUGIN_GROUP):
        raise ValueError(f'provider "{name}" has an apiVersion that is not known')
    images = [Pattern.parse(image) for image in _texts(entry["matchImages"])]
    if not images:
        raise ValueError(f'provider "{name}" has no matchImages')
    token = entry.get("tokenAttributes")
    return Provider(
        name=name,
        plugin=Plugin(
            path=Path(directory) / name,
            api_version=version,
            arguments=tuple(_texts(entry.get("args") or [])),
            environment=tuple(_variable(item) for item in entry.get("env") or []),
        ),
        images=tuple(images),
        seconds=parse_duration(str(entry["defaultCacheDuration"])),
        needs_token=isinstance(token, dict) and token.get("requireServiceAccount") is not False,
    )


def _is_version(version: object, group: str) -> bool:
    return isinstance(version, str) and version.startswith(group) and version.removeprefix(group) in _VERSIONS


def _is_name(name: str) -> bool:
    """A name is one component of a path, or it would lead out of the directory."""
    return bool(name) and name not in (".", "..") and not set(name) & {"/", " ", "\0", os.sep}


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return values


def _variable(item: Any) -> tuple[str, str]:
    name, value = item["name"], item.get("value", "")
    if not (isinstance(name, str) and isinstance(value, str)) or not name or "=" in name:
        raise TypeError
    return name, value
