"""Credential provider plugins: one run of one program, by the kubelet's exec protocol.

A request goes to its standard input and a response comes from its standard output. There is no shell, the output
and the time are bounded, and nothing that a plugin prints gets into a message: it deals in secrets.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from csi_oras.errors import CsiOrasError
from csi_oras.oci import document
from csi_oras.registry.durations import parse_duration
from csi_oras.telemetry.secrets import Secret

TIMEOUT_SECONDS = 60.0
"""The kubelet's."""
_LARGEST_RESPONSE = 1 << 20
_CACHE_KEY_TYPES = frozenset({"Image", "Registry", "Global"})


class PluginError(Exception):
    """A plugin did not do what it is for; `cause` names no secret."""

    def __init__(self, cause: str) -> None:
        self.cause = cause
        super().__init__(cause)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plugin:
    """A program and how it is called."""

    path: Path
    api_version: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PluginResponse:
    """What a plugin gives: pairs by key, for how many seconds (None: as configured) and for what they hold."""

    cache_key_type: str
    seconds: float | None
    auth: Mapping[str, tuple[str, Secret]]


def run(plugin: Plugin, image: str, timeout: float = TIMEOUT_SECONDS) -> PluginResponse:
    """Ask a plugin for what opens `image`.

    Raises:
        PluginError: it cannot be started, fails, takes too long, or answers something else.
    """
    request = {"kind": "CredentialProviderRequest", "apiVersion": plugin.api_version, "image": image}
    answer = _exchange(plugin, json.dumps(request).encode(), time.monotonic() + timeout)
    try:
        return _response(document.parse_object(answer, "response", is_secret=True), plugin.api_version)
    except CsiOrasError:  # whose words may quote the answer
        raise PluginError("gave no valid response") from None
    except ValueError:
        raise PluginError("gave a cacheDuration that is none") from None


def _exchange(plugin: Plugin, request: bytes, deadline: float) -> bytes:
    environment = {**os.environ, **dict(plugin.environment)}
    try:
        process = subprocess.Popen(  # noqa: S603 (what the administrator configured, without a shell)
            [str(plugin.path), *plugin.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,  # so that its children end with it
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "an argument that is none"
        raise PluginError(f"cannot be started ({reason})") from None
    try:
        answer = _converse(cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout), request, deadline)
        if len(answer) > _LARGEST_RESPONSE:
            raise PluginError(f"answered with more than {_LARGEST_RESPONSE} bytes")
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise PluginError("did not answer in time") from None
    finally:
        _end(process)
    if code != 0:
        raise PluginError(f"failed with exit code {code}")
    return answer


def _converse(stdin: IO[bytes], stdout: IO[bytes], request: bytes, deadline: float) -> bytes:
    """Write the request, which is less than a pipe holds, and read to the end, or to more than is allowed."""
    with suppress(BrokenPipeError):  # a plugin need not read it
        stdin.write(request)
        stdin.close()
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while len(answer) <= _LARGEST_RESPONSE:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(stdout.fileno(), 1 << 16)
            if not part:
                break
            answer += part
    return bytes(answer)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what still runs, with its children, and leave neither a zombie nor a pipe."""
    if process.returncode is None:  # not yet waited for, so the group is still its own
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()


def _response(answer: dict[str, Any], api_version: str) -> PluginResponse:
    subject = "response"
    if (answer.get("apiVersion"), answer.get("kind")) != (api_version, "CredentialProviderResponse"):
        raise PluginError(f"gave no CredentialProviderResponse of {api_version}")
    cache_key_type = document.text(answer, "cacheKeyType", subject)
    if cache_key_type not in _CACHE_KEY_TYPES:
        raise PluginError("gave a cacheKeyType that is none of Image, Registry and Global")
    duration = document.text(answer, "cacheDuration", subject, "")
    auth = document.optional_object(answer, "auth", subject) or {}
    return PluginResponse(
        cache_key_type=cache_key_type,
        seconds=parse_duration(duration) if duration else None,
        auth={key: _pair(entry) for key, entry in auth.items()},
    )


def _pair(entry: object) -> tuple[str, Secret]:
    found = (entry.get("username") or "", entry.get("password") or "") if isinstance(entry, dict) else (None, None)
    username, password = found
    if not (isinstance(username, str) and isinstance(password, str)):
        raise PluginError("gave an auth that is no user name and password")
    return username, Secret(password)
