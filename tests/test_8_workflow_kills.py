"""A workflow of three steps whose driver is killed (-9) again and again, and 20 who write at once: nothing is lost."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.accountant import Account, Accountant
from tests.support.driver import Driver
from tests.support.fault_proxy import Point
from tests.support.faulty_registry import FaultyRegistry
from tests.support.mortal_driver import DEATHS, Lives
from tests.support.pods import wait_for
from tests.support.views import View, shown
from tests.support.writers import POLICY, STEPS, Writer

pytestmark = [pytest.mark.needs("root", "registry"), pytest.mark.timeout(300)]
_WRITERS = 20
_MANIFEST = "/manifests/sha256:"
_GONE_AFTER, _DEAD_AFTER = 5, 10
"""Manifests that have come when the registry is killed, and when the driver is."""


@pytest.fixture
def stopped(short_path: Path) -> Iterator[Driver]:
    policy = short_path / "policy.yaml"
    policy.write_text(POLICY)
    with ExitStack() as stack:
        yield stack.push(Driver(short_path, "--config", str(policy)))


@pytest.fixture
def node(stopped: Driver) -> Driver:
    return stopped.start()


@pytest.mark.parametrize("points", DEATHS, ids=lambda points: points[0])
def test_workflow_whose_driver_is_killed_at_each_point_of_each_step_loses_nothing(
    stopped: Driver, registry: Distribution, repository: str, points: tuple[str, ...]
) -> None:
    accountant, node, lives = Accountant(), stopped, Lives(stopped, points)
    base, before = "", View()
    for number, write in enumerate(STEPS):
        writer = Writer(node, accountant, f"step-{number}", f"{registry.address}/{repository}/step-{number}:run")
        writer.begin(base, lives.go_on)
        assert shown(writer.target) == before
        write(writer.target, writer.name.encode())
        writer.note()
        writer.end(lives.go_on)
        base, before = writer.out, writer.view

    def is_over() -> bool:
        lives.go_on()
        return not list((node.state / "outbox").iterdir())

    wait_for(is_over)
    assert not lives.left
    assert len(accountant.account(node).pushed) == len(STEPS)


@pytest.mark.parametrize(
    "tags", [pytest.param(1, id="one tag"), pytest.param(_WRITERS, id="a tag each", marks=pytest.mark.soak)]
)
def test_20_who_write_at_once_lose_nothing_while_registry_and_driver_are_killed(
    node: Driver, short_path: Path, tags: int
) -> None:
    """Some have a base, so that what is the same is pushed by many at the same moment."""
    accountant = Accountant()
    with FaultyRegistry(short_path / "registry") as registry, ThreadPoolExecutor(_WRITERS) as pool:
        base = _written(node, accountant, "base", f"{registry.address}/base:run")
        base.end()
        outs = [f"{registry.address}/work:run-{number % tags}" for number in range(_WRITERS)]
        below = [base.out, ""]
        writers = list(
            pool.map(
                lambda number: _written(node, accountant, f"pod-{number}", outs[number], below[number % 2]),
                range(_WRITERS),
            )
        )
        registry.dies_at(Point(method="PUT", path=_MANIFEST, number=_GONE_AFTER), comes_back=True)
        registry.proxy.arm(Point(method="PUT", path=_MANIFEST, number=_DEAD_AFTER), lambda: _kill(node))
        ends = [pool.submit(writer.end) for writer in writers]
        assert node.process
        assert node.process.wait(60) == -signal.SIGKILL
        node.stop()
        node.start()
        for end in ends:
            end.result(120)
        wait_for(lambda: not list((node.state / "outbox").iterdir()))
        assert len(accountant.account(node).pushed) == _WRITERS + 1


def test_results_that_cannot_be_pushed_are_in_the_outbox_beside_those_that_are(node: Driver, short_path: Path) -> None:
    accountant = Accountant()
    with FaultyRegistry(short_path / "registry") as registry, FaultyRegistry(short_path / "dead") as dead:
        base = _written(node, accountant, "base", f"{registry.address}/base:run")
        base.end()
        stuck = [
            _written(node, accountant, f"stuck-{number}", f"{dead.address}/work:run", below)
            for number, below in enumerate(["", base.out])
        ]
        odd = _written(node, accountant, "odd", f"{registry.address}/odd:run", base.out)
        os.mkfifo(odd.target / "pipe")  # what no artifact can carry keeps all of it from being pushed
        dead.kill()
        for writer in (*stuck, odd):
            writer.end(seconds=3)
        node.kill()
        node.start()
        assert accountant.account(node, away=[dead.address]) == Account(
            pushed=frozenset({"base"}), waiting=frozenset({"odd", "stuck-0", "stuck-1"})
        )


def _written(node: Driver, accountant: Accountant, name: str, out: str, base: str = "") -> Writer:
    """Return a pod that has written, and has not gone yet."""
    writer = Writer(node, accountant, name, out)
    writer.begin(base)
    STEPS[bool(base)](writer.target, name.encode())
    writer.note()
    return writer


def _kill(node: Driver) -> None:
    assert node.process
    os.kill(node.process.pid, signal.SIGKILL)
