"""Hosts directories as an administrator lays them out."""

from pathlib import Path

from csi_oras.registry.hosts_dirs import HostsDirectories


class CertsD:
    """A directory such as /etc/containerd/certs.d."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, name: str) -> Path:
        """The directory of a registry, made if it is not there."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> Path:
        """Give a registry a hosts.toml, or another one."""
        file = self.directory(name) / "hosts.toml"
        file.write_text(text)
        return file

    @property
    def directories(self) -> HostsDirectories:
        """What a driver makes of it."""
        return HostsDirectories(lambda: (str(self.root),))
