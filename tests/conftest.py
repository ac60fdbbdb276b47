"""Fixtures that every test may use: a real registry, a real driver, and what this machine cannot do."""

import os
import re
import shutil
import signal
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from csi_oras.demo import distribution
from tests.support import outputs, referrers_registry
from tests.support.artifacts import Pusher
from tests.support.driver import Driver

_MISSING = {
    "root": "" if os.geteuid() == 0 else "mounts need root",
    "registry": "" if distribution.program() else "docker-registry is not installed",
    "fuse": "" if Path("/dev/fuse").exists() else "/dev/fuse is missing",
    "referrers registry": ""
    if referrers_registry.program()
    else "the referrers registry is not built (it needs Go once)",
    "skopeo": "" if shutil.which("skopeo") else "skopeo is missing",
    "image tools": ""
    if all(map(shutil.which, ("skopeo", "umoci", "buildah")))
    else "skopeo, umoci or buildah is missing",
}


_LEFT = pytest.StashKey[set[str]]()
"""What was left out, for the last lines."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell begins what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests interrupt what they start
    config.addinivalue_line("markers", "needs(*what): parts of the machine that a test cannot do without")
    config.addinivalue_line(
        "markers", "row(*ids): rows of the list of hostile servers and signatures that a test plays"
    )
    config.addinivalue_line("markers", "peer(program): a program that is compared with where it is on PATH")
    config.addinivalue_line("markers", "soak: takes too long for every run; make soak runs it, with SOAK=1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_out(config, items)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        needed = {what for marker in item.iter_markers("needs") for what in marker.args}
        needed |= {"root"} if fixtures & {"driver", "make_driver"} else set()
        needed |= {"registry"} if fixtures & {"registry", "pusher"} else set()
        for reason in filter(None, (_MISSING[what] for what in sorted(needed))):
            item.add_marker(pytest.mark.skip(reason=reason))


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs a program that no package has, and what takes long: no skip, which fails in CI."""
    absent = {item: reason for item in items if (reason := _reason_to_leave_out(item))}
    if absent:
        config.hook.pytest_deselected(items=list(absent))
        config.stash[_LEFT] = set(absent.values())
        items[:] = [item for item in items if item not in absent]


def _reason_to_leave_out(item: pytest.Item) -> str:
    for mark in item.iter_markers("peer"):
        if not shutil.which(mark.args[0]):
            return f"the comparison with {mark.args[0]}, which is not on PATH"
    takes_long = item.get_closest_marker("soak") and not os.environ.get("SOAK")
    return "what takes long; make soak does it" if takes_long else ""


def _skipped(reporter: TerminalReporter) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for report in reporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    return reasons


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say in the last lines what was not run, and why; nobody should have to look for it."""
    left: set[str] = config.stash.get(_LEFT, set())
    for what in sorted(left):
        terminalreporter.write_line(f"NOT RUN: {what}", yellow=True)
    for reason, count in _skipped(terminalreporter).items():
        terminalreporter.write_line(f"NOT RUN: {count} tests, because {reason}", yellow=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true a skip is a failure. A worker, which has no last lines, hands over what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = session.config.stash.get(_LEFT, set())
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter and _skipped(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker left out; one that crashed has failed the run."""
    node.config.stash.setdefault(_LEFT, set()).update(getattr(node, "workeroutput", {}).get("left", ()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what was logged in this process."""
    outputs.KEPT.keep("captured", report.capstdout + report.capstderr + report.caplog)


@pytest.fixture(scope="session", autouse=True)
def _no_secret_comes_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session, whatever was selected of it, when a secret that a test planted came out anywhere.

    Being the first fixture, it ends last: what it reads is all there is.
    """
    outputs.KEPT.begin(tmp_path_factory.mktemp("outputs"))
    with outputs.listening():
        yield
    leaks = outputs.KEPT.leaks()
    assert not leaks, "secrets came out:\n" + "\n".join(leaks[:20])


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[distribution.Distribution]:
    """A CNCF distribution registry that the whole run shares; give each test a repository of its own."""
    with distribution.Distribution(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def pusher(registry: distribution.Distribution) -> Pusher:
    """What puts artifacts into the registry."""
    return Pusher(registry.address)


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test uses."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"t/{name}" if len(name) <= 100 else f"t/{name[:90]}-{zlib.crc32(request.node.name.encode()):08x}"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a path short enough for a unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def driver(short_path: Path) -> Iterator[Driver]:
    """A driver of a test's own, with controller and node on one socket."""
    with Driver(short_path) as running:
        yield running
