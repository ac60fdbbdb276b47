"""A distribution registry that wants a password, as `htpasswd -B` keeps it."""

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher
from tests.support.fake_registry import basic
from tests.support.planted import planted

USER, PASSWORD = "alice", planted("correct horse")
SECRET = {"username": USER, "password": PASSWORD}
_LOWEST_COST = b"$2b$04$ckjUrjO3bCNvUtUem87gD."


def bcrypt(password: str) -> str:
    """Return what `htpasswd -B` keeps of a password."""
    libcrypt = ctypes.CDLL(ctypes.util.find_library("crypt"))
    libcrypt.crypt.restype = ctypes.c_char_p
    return str(libcrypt.crypt(password.encode(), _LOWEST_COST).decode())


@contextmanager
def private_registry(directory: Path) -> Iterator[tuple[Distribution, Pusher]]:
    """Run one, and give with it what may push there."""
    directory.mkdir(parents=True, exist_ok=True)
    users = directory / "htpasswd"
    users.write_text(f"{USER}:{bcrypt(PASSWORD)}\n")
    with Distribution(directory, f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}\n") as running:
        yield running, Pusher(running.address, headers={"Authorization": basic(USER, PASSWORD)})
