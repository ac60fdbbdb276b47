"""The oras program is in no Debian package, so its absence is no skip, which fails in CI; the last lines tell it."""

import shutil

from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    if not shutil.which("oras"):
        line = "NOT RUN: directories pushed by the oras program, because oras is not on PATH; ours are built by hand"
        terminalreporter.write_line(line, yellow=True)
