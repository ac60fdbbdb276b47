"""An accountant: holds what every pod has written against what is in registries and in a node's outbox.

Whatever a volume showed its pod last is one result. It has to be all there, and nothing else with it: under the tag
that was wanted, under the second tag that stands in for it, or in an entry of the outbox.
"""

import json
import subprocess
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.driver import Driver
from tests.support.outside import Outside
from tests.support.views import Shelves, View, shown

_DIGITS = 12
_MOST_CALLS = 30


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a pod has left in a volume that was to become `address/repository:tag`."""

    pod: str
    address: str
    repository: str
    tag: str
    view: View = field(hash=False)

    @property
    def reference(self) -> str:
        return f"{self.address}/{self.repository}:{self.tag}"


@dataclass(frozen=True)
class Account:
    """The names of pods whose results are in a registry, and of those whose are in the outbox."""

    pushed: frozenset[str]
    waiting: frozenset[str]


class Accountant:
    """Knows what every pod has written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: list[Result] = []

    def wrote(self, pod: str, reference: str, view: View) -> None:
        """Note what a pod has left; no two leave the same, or nobody could tell whose is there."""
        path, _, tag = reference.rpartition(":")
        address, _, repository = path.partition("/")
        result = Result(pod=pod, address=address, repository=repository, tag=tag, view=view)
        with self._lock:
            assert all(pod != other.pod for other in self._results), f"{pod} has written twice"
            assert all(view != other.view for other in self._results if other.repository == repository), pod
            self._results.append(result)

    @property
    def references(self) -> list[str]:
        """What was to be written."""
        return sorted({result.reference for result in self._results})

    def account(self, node: Driver, away: Collection[str] = ()) -> Account:
        """See to it that every result is somewhere, and that nothing else is; registries at `away` cannot be asked."""
        _check_node(node)
        tags, pushed = set[str](), set[str]()
        for (address, repository), results in self._by_repository().items():
            if address not in away:
                for result, tag in _pushed(node, address, repository, results):
                    pushed.add(result.pod)
                    tags.add(f"{address}/{repository}:{tag}")
        waiting = {pod for pod, view in _waiting(node).items() if self._is_whole(pod, view)}
        for result in self._results:
            assert result.pod in pushed | waiting, f"what {result.pod} wrote is nowhere: {result.view}"
            assert result.reference in tags or result.pod in waiting, f"{result.reference} is not there"
        return Account(frozenset(pushed), frozenset(waiting))

    def _is_whole(self, pod: str, view: View) -> bool:
        expected = next((result.view for result in self._results if result.pod == pod), None)
        assert expected is not None, f"nobody knows of {pod}, who has an entry in the outbox"
        assert view == expected, f"the outbox has not what {pod} wrote: {_difference(view, expected)}"
        return True

    def _by_repository(self) -> dict[tuple[str, str], list[Result]]:
        found: dict[tuple[str, str], list[Result]] = defaultdict(list)
        for result in self._results:
            found[result.address, result.repository].append(result)
        return found


def _pushed(node: Driver, address: str, repository: str, results: list[Result]) -> Iterator[tuple[Result, str]]:
    """Yield whose result each tag of a repository means; whatever is there is somebody's, and where it may be."""
    shelves = Shelves(address)
    for tag in shelves.tags(repository):
        view = shelves.view(repository, tag)
        result = next((result for result in results if result.view == view), None)
        assert result, f"nobody wrote what {repository}:{tag} is: {view}"
        second = f"{result.tag}-{shelves.digest(repository, tag).removeprefix('sha256:')[:_DIGITS]}"
        assert tag in (result.tag, second), f"what {result.pod} wrote for {result.tag} is {tag}"
        read = _read(node, f"{address}/{repository}:{tag}")
        assert read == view, f"a volume of {repository}:{tag} shows something else: {_difference(read, view)}"
        yield result, tag


def _read(node: Driver, reference: str) -> View:
    name = f"reader-{zlib.crc32(reference.encode())}"
    target = node.target("reader", pod=name)
    node.publish(target, volume_id=name, reference=reference, pullPolicy="Always")
    view = shown(target)
    node.unpublish(target, volume_id=name)
    return view


def _waiting(node: Driver) -> dict[str, View]:
    """What each pod wrote that has an entry in the outbox, as an export gives it."""
    rows = {row["id"]: row["pod"] for row in outbox(node, "ls")}
    assert set(rows) == set(_entries(node)), "the outbox does not list what is there"
    assert len(set(rows.values())) == len(rows), "two entries are of one pod"
    with ThreadPoolExecutor(2) as pool:
        views = pool.map(lambda entry: _exported(node, entry), rows)
    return dict(zip(rows.values(), views, strict=True))


def _exported(node: Driver, entry: str) -> View:
    with TemporaryDirectory(dir=node.directory) as directory:
        outbox(node, "export", entry, "--to", directory)
        return shown(Path(directory))


def outbox(node: Driver, *arguments: str) -> Any:
    """Run `csi-oras outbox` until the entry is not being pushed at that moment, and return what it says."""
    command = [sys.executable, "-m", "csi_oras", "outbox", *arguments, "--json", "--state-dir", str(node.state)]
    for _ in range(_MOST_CALLS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout)
        assert "is being pushed at this moment" in done.stderr, (arguments, done.stderr)
    raise AssertionError(f"{arguments}: it is being pushed for ever")


def _entries(node: Driver) -> list[str]:
    return sorted(path.name for path in (node.state / "outbox").iterdir())


def _check_node(node: Driver) -> None:
    """See to it that nothing is left of volumes that are gone."""
    outside, entries = Outside(node.state), _entries(node)
    holders = {holder for (holder,) in outside.rows("leases", "holder")} - {f"outbox {entry}" for entry in entries}
    assert not [name for name in entries if name.startswith(".")], f"something is left of what was removed: {entries}"
    assert not holders, f"somebody who is gone holds something: {holders}"
    left = outside.rows("volumes"), node.mounts(), [path.name for path in (node.state / "volumes").iterdir()]
    assert not any(left), f"something is left of volumes: {left}"
    outside.check()


def _difference(found: View, expected: View) -> list[str]:
    return sorted(_lines(found, expected))


def _lines(found: View, expected: View) -> Iterator[str]:
    for name in found.keys() | expected.keys():
        if found.get(name) != expected.get(name):
            yield f"{name}: {found.get(name)} and not {expected.get(name)}"
