"""A distribution registry that wants a password, as `htpasswd -B` keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Pusher
from tests.support.fake_registry import basic

USER, PASSWORD = "alice", "correct horse"
SECRET = {"username": USER, "password": PASSWORD}
_HASH = "$2b$04$ckjUrjO3bCNvUtUem87gD.6P48S/2Unfc89HAwS44r4IGlsZjXPgq"  # of PASSWORD, at the lowest cost


@contextmanager
def private_registry(directory: Path) -> Iterator[tuple[Distribution, Pusher]]:
    """Run one, and give with it what may push there."""
    directory.mkdir(parents=True, exist_ok=True)
    users = directory / "htpasswd"
    users.write_text(f"{USER}:{_HASH}\n")
    with Distribution(directory, f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}\n") as running:
        yield running, Pusher(running.address, headers={"Authorization": basic(USER, PASSWORD)})
