"""What a pod hears of its lazy volume that is none: why it is pulled whole, and nothing where that is what it wants."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer
from tests.support.artifacts import Layer, files
from tests.support.chunks import ANNOTATION, chunk_index
from tests.support.driver import pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.kinds_archives import oras_directory
from tests.support.lazy_node import MIB, PIECES, LazyNode
from tests.support.tars import tar

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(120)]
pytest_plugins = ["tests.support.fake_fixtures"]
CONTENT, OTHER = os.urandom(3 * MIB), os.urandom(3 * MIB)
LARGE = Layer(content=CONTENT, title="large")
PACKED = oras_directory("packed", tar([{"name": "packed/x", "content": "member"}]))
_ENABLED = "lazy: {enabled: false}"
_INDEX = "lazy: {requireIndex: true}"
_PULLED = ["NotLazy", "Pulling", "Pulled"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as running:
        yield running


def node_of(api: ApiServer, directory: Path, policy: str) -> LazyNode:
    account = ("--service-account-dir", str(api.account))
    return LazyNode(directory, *account, policy=f"{PIECES}{policy}\n", environment=api.environment())


def kinds_of_requests(fake: FakeRegistry, repository: str) -> set[str]:
    return {re.sub("[0-9a-f]{64}", "*", request.path.replace(repository, "")) for request in fake.seen(repository)}


@pytest.mark.parametrize(
    "case",
    [
        (_ENABLED, [LARGE], "node policy lets no volume be lazy (lazy.enabled)"),
        (_INDEX, [LARGE, *files(small=b"small")], "(lazy.requireIndex), and 1 of its files have none"),
        ("", [LARGE, PACKED], "it has archives, which are unpacked"),
    ],
    ids=["forbidden", "no index", "archives"],
)
def test_lazy_volume_that_is_pulled_whole_says_why_and_asks_for_no_more_than_an_eager_one(
    api: ApiServer, short_path: Path, fake: FakeRegistry, case: tuple[str, list[Layer], str]
) -> None:
    policy, layers, cause = case
    with node_of(api, short_path, policy) as node:
        others = [Layer(content=OTHER, title="large"), *layers[1:]]
        eager = node.show(fake.artifact("t/eager", others), mode="eager", **pod_context(name="eager"))
        lazy = node.show(fake.artifact("t/lazy", layers), **pod_context(name="lazy"))
        assert not node.connections()
        assert (lazy / "large").read_bytes() == CONTENT
        api.wait("Pulling", "Pulled", pod="eager")
        (_, why), *_ = api.wait(*_PULLED, pod="lazy")
        assert why.startswith(f"Pulling artifact {fake.address}/t/lazy:v1 whole: ")
        assert cause in why
        assert kinds_of_requests(fake, "t/lazy") <= kinds_of_requests(fake, "t/eager")
        assert "a lazy volume is pulled whole" in node.log
        node.hide(eager, lazy)


@pytest.mark.parametrize("policy", [_ENABLED, _INDEX], ids=["forbidden", "no index"])
def test_volume_of_what_is_local_already_is_told_of_nothing(
    api: ApiServer, short_path: Path, fake: FakeRegistry, policy: str
) -> None:
    with node_of(api, short_path, policy) as node:
        references = [fake.artifact(name, [LARGE]) for name in ("t/x", "t/y")]
        first = node.show(references[0], **pod_context(name="first"))
        second = node.show(references[0], **pod_context(name="second"))
        third = node.show(references[0], **pod_context(name="third"), pullPolicy="Always")
        last = node.show(references[1], **pod_context(name="last"), mode="eager")
        api.wait("Pulling", "Pulled", pod="last")  # after which nothing of before is still on its way
        assert [api.told(pod) for pod in ("second", "third")] == [[], []]
        node.hide(first, second, third, last)


def test_volume_that_may_be_lazy_is_told_of_nothing(api: ApiServer, short_path: Path, fake: FakeRegistry) -> None:
    index = fake.blob("t/x", chunk_index(CONTENT))
    reference = fake.artifact("t/x", [LARGE], annotations={ANNOTATION: index})
    with node_of(api, short_path, _INDEX) as node:
        lazy = node.show(reference, **pod_context(name="lazy"))
        assert [one.target for one in node.connections()] == [str(lazy)]
        eager = node.show(fake.artifact("t/y", files(x=b"x")), **pod_context(name="eager"), mode="eager")
        api.wait("Pulling", "Pulled", pod="eager")
        assert not api.told("lazy")
        node.hide(lazy, eager)
