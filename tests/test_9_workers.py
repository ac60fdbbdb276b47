"""A run in several processes ends as it would in one; that leaks fail it is shown beside the search for them."""

from pathlib import Path

import pytest

from tests.support.sessions import session

LEFT_OUT = """
import pytest

pytestmark = pytest.mark.parametrize("number", range(4))


@pytest.mark.skip(reason="there is no moon")
def test_moon(number):
    pass


@pytest.mark.peer("no-such-program")
def test_peer(number):
    pass


def test_passes(number):
    pass
"""


def test_what_is_left_out_is_told_once_and_a_skip_fails_in_ci(tmp_path: Path) -> None:
    ended = session(tmp_path, LEFT_OUT, "--numprocesses", "2", CI="true")
    assert "4 passed, 4 skipped" in ended.stdout
    assert [line for line in ended.stdout.splitlines() if line.startswith("NOT RUN")] == [
        "NOT RUN: the comparison with no-such-program, which is not on PATH",
        "NOT RUN: 4 tests, because there is no moon",
    ]
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
