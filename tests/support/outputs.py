"""Everything that came out of what the tests ran, kept until the session ends: logs, errors, metrics, answers.

Nobody has to hand in what he saw: drivers, commands and errors are listened to from here and from `driver.py`.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.errors import CsiOrasError
from tests.support import planted


class Outputs:
    """A directory with a file for each kind of output; before `begin` nothing is kept."""

    def __init__(self) -> None:
        self.directory: Path | None = None

    def begin(self, directory: Path) -> None:
        """Keep from now on."""
        self.directory = directory

    def keep(self, kind: str, content: str | bytes | None) -> None:
        """Keep a piece with the name of the test that runs."""
        if self.directory and content:
            raw = content.encode(errors="replace") if isinstance(content, str) else content
            with (self.directory / kind).open("ab") as file:
                file.write(b"== %s\n%s\n" % (os.environ.get("PYTEST_CURRENT_TEST", "").encode(), raw))

    def leaks(self) -> list[str]:
        """Return where secrets came out: the kind, and the words around each."""
        paths = sorted(self.directory.iterdir()) if self.directory else []
        return [f"{path.name}: {found!r}" for path in paths for found in planted.search(path.read_bytes())]


KEPT = Outputs()
"""Of this session."""


@contextmanager
def listening() -> Iterator[None]:
    """Keep what commands print, and what errors that are made in this process say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "communicate", _heard(subprocess.Popen.communicate))
        patch.setattr(CsiOrasError, "__init__", _noted(CsiOrasError.__init__))
        yield


def _heard(communicate: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    def heard(self: "subprocess.Popen[Any]", *args: Any, **options: Any) -> tuple[Any, Any]:
        printed = communicate(self, *args, **options)
        if "csi_oras" in str(self.args):
            for stream in printed:
                KEPT.keep("commands", stream)
        return printed

    return heard


def _noted(make: Callable[..., None]) -> Callable[..., None]:
    def noted(self: CsiOrasError, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        KEPT.keep("errors", self.message)

    return noted


class Listener(grpc.UnaryUnaryClientInterceptor):
    """Keeps what calls answer, and what they fail with."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        call.add_done_callback(_keep_answer)
        return call


def _keep_answer(call: Any) -> None:
    KEPT.keep("answers", f"{call.code()} {call.details()} {call.trailing_metadata()} {call.initial_metadata()}")
    if call.code() is grpc.StatusCode.OK:
        KEPT.keep("answers", str(call.result()))
