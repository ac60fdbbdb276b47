"""A workflow of three steps whose registry is killed, restarted and slow at each moment: every byte is accounted for.

The workflows of a test run at once on one node, each with a registry of its own.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.accountant import Accountant
from tests.support.driver import Driver
from tests.support.faulty_registry import FaultyRegistry
from tests.support.pods import wait_for
from tests.support.trouble import TROUBLES, Occasion, Phase, Trouble
from tests.support.views import View, shown
from tests.support.writers import POLICY, STEPS, Writer

pytestmark = [pytest.mark.needs("root", "registry"), pytest.mark.timeout(400)]
_LARGE_BYTES = 17 << 20
"""More than what goes in one chunk."""
_ALWAYS = ("killed and restarted", "at a crawl until the pod has gone")
"""What every run looks at; make soak does the rest."""


@pytest.fixture
def node(short_path: Path) -> Iterator[Driver]:
    policy = short_path / "policy.yaml"
    policy.write_text(POLICY)
    with Driver(short_path, "--config", str(policy)) as running:
        yield running


class Workflow:
    """Three pods, one after the other, and the registry by which they hand on their files."""

    def __init__(self, node: Driver, registry: FaultyRegistry, accountant: Accountant, number: int) -> None:
        self._registry = registry
        self._writers = [
            Writer(node, accountant, f"workflow-{number}-step-{step}", f"{registry.address}/step-{step}:run")
            for step in range(len(STEPS))
        ]

    def run(self, trouble: Trouble, occasion: Occasion) -> None:
        """Go through all steps with the same trouble in each."""
        base, before = "", View()
        for writer, write in zip(self._writers, STEPS, strict=True):
            self._begin(writer, base, trouble, occasion)
            assert shown(writer.target) == before  # all that the step before has left, and nothing else
            write(writer.target, writer.name.encode())
            if occasion.is_chunked:
                (writer.target / "large").write_bytes(writer.name.encode().ljust(_LARGE_BYTES, b"."))
            writer.note()
            self._end(writer, trouble, occasion)
            base, before = writer.out, writer.view

    def _begin(self, writer: Writer, base: str, trouble: Trouble, occasion: Occasion) -> None:
        """Have the volume shown; if this is when, there is trouble until the kubelet has heard of it."""
        if occasion.phase is Phase.PUSH or (occasion.phase is Phase.PULL and not base):
            writer.begin(base)
            return
        fault = trouble.strike(self._registry, occasion.point)

        def between() -> None:
            if fault.struck.is_set():
                trouble.end(self._registry)

        writer.begin(base, between, trouble.kubelet_seconds)
        assert fault.struck.is_set()

    def _end(self, writer: Writer, trouble: Trouble, occasion: Occasion) -> None:
        """Have the volume taken away; if this is when, there is trouble until the pod has gone, and longer."""
        if occasion.phase is not Phase.PUSH:
            writer.end()
            return
        fault = trouble.strike(self._registry, occasion.point)
        writer.end(seconds=trouble.kubelet_seconds)
        assert fault.struck.wait(60)
        wait_for(partial(trouble.is_enough, writer))
        trouble.end(self._registry)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(trouble, id=name, marks=[] if name in _ALWAYS else pytest.mark.soak)
        for name, trouble in TROUBLES.items()
    ],
)
def test_workflow_whose_registry_has_trouble_at_each_moment_of_each_step_loses_nothing(
    node: Driver, trouble: Trouble
) -> None:
    accountant = Accountant()
    with ExitStack() as registries, ThreadPoolExecutor(len(trouble.occasions)) as pool:
        running = {}
        for number, (name, occasion) in enumerate(trouble.occasions.items()):
            registry = registries.enter_context(FaultyRegistry(node.directory / f"registry-{number}"))
            registry.proxy.least_chunk = int(occasion.is_chunked)
            workflow = Workflow(node, registry, accountant, number)
            running[name] = pool.submit(workflow.run, trouble, occasion)
        failures = {name: error for name, work in running.items() if (error := work.exception())}
        assert not failures
        wait_for(lambda: not list((node.state / "outbox").iterdir()))
        assert len(accountant.account(node).pushed) == len(STEPS) * len(trouble.occasions)
