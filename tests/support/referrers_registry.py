"""A second implementation of a registry, with the referrers API: go-containerregistry's, which `.ci/setup` builds."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csi_oras.demo.distribution import held_port
from tests.support.artifacts import Pusher

_NAME = "referrers-registry"
_START_SECONDS = 20


def program() -> str | None:
    """Return its path where `.ci/setup` built it, or where it is on PATH."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csi-oras"
    built = Path(os.environ.get("CSI_ORAS_CACHE") or home) / "bin" / _NAME
    return str(built) if os.access(built, os.X_OK) else shutil.which(_NAME)


@contextmanager
def referrers_registry(log: Path) -> Iterator[Pusher]:
    """Run one, and give what pushes to it."""
    found = program()
    assert found is not None
    with held_port() as port, log.open("wb") as output:
        pusher = Pusher(f"127.0.0.1:{port}")
        with subprocess.Popen([found, pusher.address], stdout=output, stderr=output) as process:
            try:
                _wait(pusher, process)
                yield pusher
            finally:
                process.terminate()


def _wait(pusher: Pusher, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            pusher.blob("started", b"")
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the registry did not come up")
