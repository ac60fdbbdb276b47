"""A CNCF distribution registry of our own: started on a free loopback port, stopped with all it held."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from csi_oras.errors import InvalidConfigError

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_PROGRAMS = ("docker-registry", "registry")


def program() -> str | None:
    """Return the path of a distribution registry on this machine, if there is one."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a loopback port that nobody else is given meanwhile; a server that reuses addresses may listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


class Distribution:
    """A running registry; use it in a with statement."""

    def __init__(self, directory: Path, extra_configuration: str = "") -> None:
        """Keep everything below `directory`; `extra_configuration` is YAML for the end of its configuration."""
        self.directory = directory
        self._held = ExitStack()
        self.port = self._held.enter_context(held_port())
        self.address = f"127.0.0.1:{self.port}"
        self._extra = extra_configuration
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it has written, one line for each request among it."""
        return self.directory / "registry.log"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            InvalidConfigError: there is no such program, or it does not come up.
        """
        found = program()
        if found is None:
            raise InvalidConfigError("docker-registry", "is not installed", "apt-get install docker-registry")
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "registry.yml"
        configuration.write_text(
            "version: 0.1\n"
            "log: {level: info, formatter: json, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.directory / 'data'}}}, delete: {{enabled: true}}}}\n"
            f'http: {{addr: "{self.address}"}}\n' + self._extra
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (a program of this machine, a file of ours)
                [found, "serve", str(configuration)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for whoever started us: they stop it when they are done
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise InvalidConfigError("docker-registry", "did not come up", f"see {self.log}")

    def stop(self) -> None:
        """Stop it; its data stays for another start."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._held.close()
