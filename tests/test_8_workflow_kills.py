"""A workflow of three steps whose driver is killed (-9) again and again, and 20 who write at once: nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from tests.support.accountant import Accountant
from tests.support.driver import Driver
from tests.support.mortal_driver import Lives
from tests.support.pods import wait_for
from tests.support.views import View, shown
from tests.support.writers import POLICY, STEPS, Writer

pytestmark = [pytest.mark.needs("root", "registry"), pytest.mark.timeout(300)]
_DEATHS = (
    ("target made", "unmounted", "entry claimed", "mounted", "entry's base held", "manifest pushed"),
    ("writable volume made", "captured", "blob uploaded", "tree renamed", "tag moved", "entry's base let go"),
    ("intent recorded", "target removed", "layers made", "blob renamed", "entry's credential gone"),
    ("volume recorded", "record dropped", "upload opened", "entry out of the outbox", "entry emptied"),
)
"""Points in an order in which each comes; a life that begins after one ends at the next, whatever step that is in."""


@pytest.fixture
def node(short_path: Path) -> Iterator[Driver]:
    policy = short_path / "policy.yaml"
    policy.write_text(POLICY)
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


@pytest.mark.parametrize("points", _DEATHS, ids=lambda points: points[0])
def test_workflow_whose_driver_is_killed_at_each_point_of_each_step_loses_nothing(
    node: Driver, registry: Distribution, repository: str, points: tuple[str, ...]
) -> None:
    accountant, lives = Accountant(), Lives(node, points)
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
