"""Settings: the policy file, and every file and program that it names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from csi_oras import config
from csi_oras.doctor.check import Check, Examination
from csi_oras.errors import CsiOrasError, InvalidConfigError, printable
from csi_oras.registry import provider_config
from csi_oras.registry.docker_files import DockerFiles
from csi_oras.registry.hosts_dirs import HostsDirectories

USUAL_FILE = Path("/etc/csi-oras/policy.yaml")
"""Where the manifests of `deploy/` mount it."""
_HOSTS = "hosts directories"
_MOST_DIRECTORIES = 10_000
_MOST_ENTRIES = 10


def examine(file: Path | None) -> tuple[config.Policy | None, Check]:
    """Read the policy file, and say what came of it."""
    name = "configuration"
    try:
        policy = config.load(file)
    except InvalidConfigError as error:
        return None, Check.of_error(name, error)
    if file is None and USUAL_FILE.exists():
        message = f"no policy file is named, so the defaults are looked at and not {USUAL_FILE}"
        return policy, Check.warning(name, message, f"--config {USUAL_FILE}, if the driver has it")
    if file is None:
        return policy, Check.ok(name, "no policy file is named: the defaults hold")
    keys = sum(len(rule.cosign_keys) for rule in policy.verification)
    signed = f", cosign keys: {keys}" if keys else ""
    return policy, Check.ok(name, f"{file} is valid{signed}")


def examinations(policy: config.Policy) -> Mapping[str, Examination]:
    """Return what there is to look at."""
    named = policy.credentials
    return {
        _HOSTS: lambda: check_hosts(policy.registries.hosts_dirs),
        "docker configs": lambda: check_docker_files(named.docker_config),
        "credential providers": lambda: check_providers(named.providers.config_file, named.providers.bin_dir),
    }


def check_hosts(roots: tuple[str, ...]) -> Iterator[Check]:
    """Read what is said about each registry, as a pull would."""
    for root in roots:
        if os.path.lexists(root):
            yield from _check_hosts_in(root)
        else:
            yield Check.ok(_HOSTS, f"{root} is not there: registries are reached directly")


def _check_hosts_in(root: str) -> Iterator[Check]:
    with os.scandir(root) as entries:
        registries = sorted(entry.name for entry in entries if entry.is_dir())[:_MOST_DIRECTORIES]
    directories, broken = HostsDirectories(lambda: (root,)), 0
    for registry in registries:
        try:
            directories.hosts_of(registry)
        except CsiOrasError as error:
            broken += 1
            yield Check.of_error(_HOSTS, error)
    if not broken:
        yield Check.ok(_HOSTS, f"{root} can be read, registries: {len(registries)}")


def check_docker_files(paths: tuple[str, ...]) -> Iterator[Check]:
    """Read each docker config file."""
    name, files = "docker configs", DockerFiles()
    for path in paths:
        try:
            found = files.read(path)
        except CsiOrasError as error:
            yield Check.failed(name, f"{path} {error.cause}", "correct it, it is read again at each pull")
            continue
        for key in found.unreadable[:_MOST_ENTRIES]:
            message = f'{path} holds no credential that can be read for "{printable(key, 80)}"'
            yield Check.warning(name, message, 'make its "auth" the base64 of user:password')
        if found.helpers:
            message = f"{path} names helpers ({', '.join(found.helpers)}), which are never run"
            yield Check.warning(name, message, "write credentials into it, or use credential providers")
        elif not found.unreadable:
            yield Check.ok(name, f"{path} can be read")


def check_providers(file: str, directory: str) -> Iterator[Check]:
    """Look for the program of each credential provider."""
    name = "credential providers"
    if not file:
        return
    for provider in provider_config.load(file, directory):
        path = provider.plugin.path
        if provider.needs_token:
            message = f"{provider.name} wants service-account tokens of the kubelet's own, and is passed over"
            yield Check.warning(name, message)
        elif not path.is_file():
            yield Check.failed(name, f"{path} is not there", f"install it, or take it out of {file}")
        elif not os.access(path, os.X_OK):
            yield Check.failed(name, f"{path} cannot be executed", f"chmod +x {path}")
        else:
            yield Check.ok(name, f"{path} is there")
