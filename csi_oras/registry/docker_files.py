"""Docker config files of the node: credentials for every pod, read at each look-up, so that a new one counts at once.

Credential helpers that a file names are not run; a warning says so, once for each version of the file.
"""

import threading
from collections.abc import Callable, Iterable

from csi_oras.errors import UnauthenticatedError
from csi_oras.oci.reference import Repository
from csi_oras.registry import named_files
from csi_oras.registry.credentials import LARGEST_CONFIG, Credential, DockerConfig
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.secrets import Secret


class DockerFiles:
    """Reads docker config files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._warned: dict[str, int] = {}

    def find(self, paths: Iterable[str], repository: Repository, note: Callable[[str], None]) -> Credential | None:
        """Return what the first file that covers `repository` holds for it; `note` hears why one holds nothing."""
        for path in paths:
            try:
                config = self.read(path)
                found = config.find(repository, f"the node's file {path}")
            except UnauthenticatedError as error:
                note(f"{path} {error.cause}")
                continue
            if found:
                return found
            note(f"{path} has nothing for it")
        return None

    def read(self, path: str) -> DockerConfig:
        """Read one file.

        Raises:
            UnauthenticatedError: it cannot be read, or is no docker config.
        """
        try:
            text = named_files.read(path, LARGEST_CONFIG).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise UnauthenticatedError(path, f"cannot be read ({reason})") from None
        config = DockerConfig.parse(Secret(text))
        if config is None:
            raise UnauthenticatedError(path, 'is not a docker config with "auths"')
        if config.helpers:
            self._warn(path, hash(text), config.helpers)
        return config

    def _warn(self, path: str, version: int, helpers: tuple[str, ...]) -> None:
        with self._lock:
            known = self._warned.get(path) == version
            self._warned[path] = version
        if not known:
            logger.warning("a docker config names helpers, which are not run", file=path, keys=list(helpers))
