"""Endpoints: unix sockets, as flags name them."""

import os
from pathlib import Path

from csi_oras.errors import InvalidConfigError, printable

_SCHEME = "unix://"
_LONGEST_SOCKET_PATH = 107


def socket_path(endpoint: str) -> Path:
    """Return the path of an endpoint `unix:///path/name.sock`.

    Raises:
        InvalidConfigError: it is written otherwise, or too long for a socket.
    """
    path = endpoint.removeprefix(_SCHEME).removeprefix("unix:")
    if not path.startswith("/") or not path.endswith(".sock"):
        raise InvalidConfigError(
            f'endpoint "{printable(endpoint, 200)}"',
            "is not a unix socket",
            "write it as unix:///path/name.sock",
        )
    if len(os.fsencode(private_path(Path(path)))) > _LONGEST_SOCKET_PATH:
        raise InvalidConfigError(f"endpoint {path}", "is too long for a unix socket", "choose a shorter directory")
    return Path(path)


def private_path(path: Path) -> Path:
    """Return where this process binds a socket before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}")
