"""Sessions of pytest inside a test, with the fixtures and the last lines of `conftest.py`."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent


def session(directory: Path, tests: str, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a few tests in a session of their own."""
    path = directory / "test_inside.py"
    path.write_text(tests)
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(_ROOT / "pyproject.toml"), str(path),
        "--rootdir", str(directory), "-p", "no:cacheprovider", "--basetemp", str(directory / "tmp"), *options,
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=110, env=os.environ | environment
    )
