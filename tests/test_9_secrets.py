"""No secret that a test plants comes out: the search that ends every session, and that it would find one.

The search itself is a fixture of `conftest.py`, so that it runs after everything else, and after every selection.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

from csi_oras.errors import RegistryUnavailableError
from tests.support.certificates import Authority
from tests.support.driver import Driver
from tests.support.fake_registry import basic
from tests.support.outputs import KEPT, Outputs
from tests.support.planted import MARK, planted, search
from tests.support.sessions import session
from tests.support.token_registry import TokenServer

SECRET = planted("right password/\u00fc")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "URL": quote,
    "JSON": json.dumps,
    "repr": repr,
    "hexadecimal": lambda text: text.encode().hex(),
    "cut off": lambda text: text[: len(MARK)],
    "base64": _base64,
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "data of a Secret": lambda text: _base64(json.dumps({"auths": {"x": {"auth": _base64(f"alice:{text}")}}})),
    **{f"Basic of {user}": partial(basic, user) for user in ("a", "al", "ali", "alice")},
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_search_finds_a_secret_in_every_spelling(spell: Callable[[str], str]) -> None:
    line = f'{{"event": "pull failed", "cause": "{spell(SECRET)}"}}\n'
    assert list(search(b"before\n" + line.encode() + b"after\n"))


def test_search_finds_nothing_where_nothing_is() -> None:
    assert not list(search(b"planted, password, *** and " + base64.b64encode(os.urandom(100_000))))


def test_search_finds_tokens_of_the_token_server_and_private_keys(tmp_path: Path) -> None:
    with TokenServer() as tokens:
        assert list(search(tokens.token("team/model", "pull").encode()))
    key = Authority(tmp_path).pair("client")[1].read_text()
    assert list(search(json.dumps(f"a key: {key}").encode()))


def test_outputs_name_the_kind_and_the_words_around(tmp_path: Path) -> None:
    outputs = Outputs()
    outputs.keep("logs", f"before the beginning {SECRET}")
    outputs.begin(tmp_path)
    outputs.keep("logs", "harmless")
    assert outputs.leaks() == []
    outputs.keep("errors", f"the registry refuses {SECRET}")
    (leak,) = outputs.leaks()
    assert leak.startswith("errors: ")
    assert "the registry refuses" in leak


# -- what is listened to


def kept(kind: str) -> str:
    assert KEPT.directory is not None
    path = KEPT.directory / kind
    return path.read_text(errors="replace") if path.exists() else ""


@pytest.mark.needs("root")
def test_log_metrics_answers_and_errors_of_a_driver_are_kept(driver: Driver) -> None:
    name = f"kept-{os.urandom(8).hex()}"
    with pytest.raises(grpc.RpcError):
        driver.publish(driver.target(), reference=f"BAD/{name}", volume_id=name)
    driver.stop()
    assert name in kept("answers")
    assert name in kept("logs")
    assert "csi_plugin_operations_seconds" in kept("metrics")


def test_commands_and_errors_of_this_process_are_kept() -> None:
    name = f"kept-{os.urandom(8).hex()}"
    command = [sys.executable, "-m", "csi_oras", "inspect", f"{name}:{name}:{name}"]
    assert subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).returncode != 0
    assert name in kept("commands")
    RegistryUnavailableError(name, "is away")
    assert f"{name}: is away" in kept("errors")


LEAKS = """
import subprocess

from csi_oras.errors import CsiOrasError
from csi_oras.telemetry.logs import logger
from tests.support.planted import planted


def test_log():
    logger.info("pull failed", cause={secret})


def test_error():
    assert CsiOrasError("registry", {secret})


def test_command():
    subprocess.run(["echo", "csi_oras", {secret}], capture_output=True, check=True)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_session_in_which_secrets_come_out_fails(tmp_path: Path, workers: str) -> None:
    ended = session(tmp_path, LEAKS.format(secret='planted("password")'), "--numprocesses", workers)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert re.search("3 passed, [12] error", ended.stdout)
    told = ended.stdout.partition("secrets came out")[2]
    assert all(f"{kind}: b" in told for kind in ("captured", "errors", "commands"))


def test_session_in_which_none_comes_out_passes(tmp_path: Path) -> None:
    ended = session(tmp_path, LEAKS.format(secret='"***"'))
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "3 passed" in ended.stdout
