"""Lazy volumes of registries that die, lie or know no ranges, on nodes without room: errors in time, no wrong byte."""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.artifacts import OCI_INDEX, Layer, Pusher, files, sha256
from tests.support.chunks import ANNOTATION, chunk_index, listed, lying, referrer
from tests.support.driver import pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Bend, Request, raw, status
from tests.support.faulty_registry import FaultyRegistry
from tests.support.lazy_node import MIB, PIECES, LazyNode
from tests.support.outside import Outside
from tests.support.planted import planted
from tests.support.pods import Held, wait_for
from tests.support.rot import rot
from tests.support.small_disk import small_disk

pytestmark = [pytest.mark.needs("root", "fuse"), pytest.mark.timeout(180)]
pytest_plugins = ["tests.support.fake_fixtures"]
CONTENT = random.Random(13).randbytes(12 * MIB + 5)  # noqa: S311 (any bytes)
LAYER = Layer(content=CONTENT, title="model")
_EIO = rf"\[Errno {errno.EIO}\]"


@pytest.fixture
def node(short_path: Path) -> Iterator[LazyNode]:
    with LazyNode(short_path) as running:
        yield running
        running.check_nothing_is_left()


def part(model: Path, place: int, size: int = 4096) -> bytes:
    """Read some bytes of a file past the kernel's cache of it."""
    with model.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(file.fileno(), size, place)


def flipped(_request: Request, answer: Answer) -> Answer:
    """Send as many bytes as are true, none of which is right."""
    return replace(answer, body=bytes(byte ^ 1 for byte in answer.body))


BLOB = f"/blobs/{sha256(CONTENT)}"


# -- who cannot be reached


@pytest.mark.soak
@pytest.mark.needs("registry")
def test_registry_that_is_dead_is_an_error_in_time_and_no_error_when_it_is_back(
    node: LazyNode, short_path: Path
) -> None:
    with FaultyRegistry(short_path / "registry") as registry:
        reference = Pusher(registry.address).artifact("t/model", [LAYER])
        model = node.show(reference) / "model"
        assert part(model, 0) == CONTENT[:4096]
        registry.kill()
        begun = time.monotonic()
        with pytest.raises(OSError, match=_EIO):
            part(model, 8 * MIB)
        assert time.monotonic() - begun < 120
        assert part(model, 0) == CONTENT[:4096]  # what is here is read on
        registry.revive()
        assert part(model, 8 * MIB) == CONTENT[8 * MIB : 8 * MIB + 4096]
        assert model.read_bytes() == CONTENT
        node.hide(model.parent)


@pytest.mark.parametrize("bend", [status(503), status(429), raw(b"")], ids=["503", "429", "reset"])
def test_registry_that_fails_now_and_then_is_a_pause(node: LazyNode, fake: FakeRegistry, bend: Bend) -> None:
    model = node.show(fake.artifact("t/x", [LAYER])) / "model"
    fake.bend(BLOB, bend, times=3)
    assert model.read_bytes() == CONTENT
    node.hide(model.parent)


def test_answer_that_is_none_is_an_error_and_the_next_read_asks_again(node: LazyNode, fake: FakeRegistry) -> None:
    """Nobody was shown a wrong byte, so that nothing has to be hidden from then on."""
    model = node.show(fake.artifact("t/x", [LAYER])) / "model"
    fake.bend(BLOB, raw(b"HTTP/1.1 206"))
    with pytest.raises(OSError, match=_EIO):
        part(model, 5 * MIB)
    fake.straighten()
    assert model.read_bytes() == CONTENT
    node.hide(model.parent)


def test_registry_without_ranges_is_read_from_its_beginning(node: LazyNode, fake: FakeRegistry) -> None:
    fake.serves_ranges = False
    model = node.show(fake.artifact("t/x", [LAYER])) / "model"
    assert part(model, 10 * MIB) == CONTENT[10 * MIB : 10 * MIB + 4096]
    assert model.read_bytes() == CONTENT
    node.hide(model.parent)


# -- who lies


def test_wrong_bytes_are_never_shown_where_an_index_is_bound_and_are_asked_for_again(
    node: LazyNode, fake: FakeRegistry
) -> None:
    index = fake.blob("t/x", chunk_index(CONTENT))
    model = node.show(fake.artifact("t/x", [LAYER], annotations={ANNOTATION: index})) / "model"
    fake.bend(BLOB, flipped, times=1)
    assert model.read_bytes() == CONTENT
    proofs = node.metrics()
    assert proofs['csi_oras_lazy_proofs_total{outcome="rejected"}'] > 0
    assert 'csi_oras_lazy_proofs_total{outcome="poisoned"}' not in proofs
    node.hide(model.parent)


def test_registry_that_lies_for_ever_is_an_error_where_an_index_is_bound(node: LazyNode, fake: FakeRegistry) -> None:
    index = fake.blob("t/x", chunk_index(CONTENT))
    model = node.show(fake.artifact("t/x", [LAYER], annotations={ANNOTATION: index})) / "model"
    fake.bend(BLOB, flipped)
    with pytest.raises(OSError, match=_EIO):
        part(model, 5 * MIB)
    fake.straighten()
    assert model.read_bytes() == CONTENT
    node.hide(model.parent)


def test_wrong_bytes_without_an_index_are_an_error_from_when_it_is_known_on(node: LazyNode, fake: FakeRegistry) -> None:
    """Also of what the kernel has in its cache, and after restarts of everybody."""
    reference = fake.artifact("t/x", [LAYER, *files(other=b"right")])
    target = node.show(reference, "volume", **pod_context())
    model = target / "model"
    fake.bend(BLOB, flipped)
    with model.open("rb", buffering=0) as file:
        assert len(os.pread(file.fileno(), 4096, 0)) == 4096
        wait_for(lambda: bool(node.metrics().get('csi_oras_lazy_proofs_total{outcome="poisoned"}')))

        def is_refused() -> bool:
            try:
                os.pread(file.fileno(), 4096, 0)
            except OSError as error:
                return error.errno == errno.EIO
            return False

        wait_for(is_refused)
        fake.straighten()
        for end in (node.wait_until_held, node.kill_serving, node.kill, node.kill_mounter):
            end()
            if node.process is None:
                node.start()
            node.wait_until_held()
            wait_for(is_refused)
    assert (target / "other").read_bytes() == b"right"
    (line,) = [line for line in node.log.splitlines() if "sent other bytes than a manifest names" in line]
    assert sha256(CONTENT) in line
    assert '"volume"' in line
    assert sha256(CONTENT) not in Outside(node.state).blobs()
    node.hide(target)
    again = node.show(reference)
    assert (again / "model").read_bytes() == CONTENT
    node.hide(again)


def test_lie_that_was_shown_before_the_driver_was_killed_is_an_error_when_the_truth_has_come(
    node: LazyNode, fake: FakeRegistry
) -> None:
    """The next driver knows nothing of it but what the one before it has kept."""
    held, lies = Held(), True

    def lie(request: Request, answer: Answer) -> Answer:
        if not request.headers.get("Range", "").startswith("bytes=0-"):
            return held(request, answer)
        return flipped(request, answer) if lies else answer

    fake.bend(BLOB, lie)
    model = node.show(fake.artifact("t/x", [LAYER]), "volume", **pod_context()) / "model"
    with model.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) != CONTENT[:4096]
    node.kill()
    lies = False
    held.release()
    node.start()
    part(model, 9 * MIB)
    wait_for(lambda: bool(node.metrics().get('csi_oras_lazy_proofs_total{outcome="poisoned"}')))
    with pytest.raises(OSError, match=_EIO):
        model.read_bytes()
    assert '"volume"' in next(line for line in node.log.splitlines() if "sent other bytes than a manifest" in line)
    assert sha256(CONTENT) in Outside(node.state).blobs()
    node.hide(model.parent)


def test_what_has_rotted_is_read_anew_and_told_to_the_pod(node: LazyNode, fake: FakeRegistry) -> None:
    reference = fake.artifact("t/x", [LAYER])
    model = node.show(reference, "volume", **pod_context()) / "model"
    assert model.read_bytes() == CONTENT
    wait_for(lambda: sha256(CONTENT) in Outside(node.state).blobs())
    rot(node.state / "blobs" / sha256(CONTENT).replace(":", "/"))
    command = [sys.executable, "-m", "csi_oras", "store", "verify", "--state-dir", str(node.state)]
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 1
    again = node.show(reference, "another")
    assert (again / "model").read_bytes() == CONTENT  # of the same process
    assert model.read_bytes() == CONTENT
    wait_for(lambda: any("was corrupt" in line and '"volume"' in line for line in node.log.splitlines()))
    node.hide(again, model.parent)


def test_index_that_is_but_a_hint_and_lies_keeps_no_volume_from_being_read(node: LazyNode, fake: FakeRegistry) -> None:
    reference = fake.artifact("t/x", [LAYER])
    artifact = fake.manifests["t/x"]["v1"][0]
    hint = referrer(lying(CONTENT), artifact)
    fake.blob("t/x", lying(CONTENT))
    fake.manifest("t/x", sha256(hint), hint)
    fake.manifest("t/x", sha256(artifact).replace(":", "-"), listed(hint), OCI_INDEX)
    model = node.show(reference) / "model"
    assert model.read_bytes() == CONTENT
    assert 'csi_oras_lazy_proofs_total{outcome="poisoned"}' not in node.metrics()
    node.hide(model.parent)


def test_policy_that_wants_an_index_has_all_others_pulled(short_path: Path, fake: FakeRegistry) -> None:
    index = fake.blob("t/x", chunk_index(CONTENT))
    bound = fake.artifact("t/x", [LAYER], tag="bound", annotations={ANNOTATION: index})
    bare = fake.artifact("t/x", [LAYER, *files(other=b"")], tag="bare")
    with LazyNode(short_path, policy=f"{PIECES}lazy: {{requireIndex: true}}\n") as node:
        lazy, pulled = node.show(bound), node.show(bare)
        assert [one.target for one in node.connections()] == [str(lazy)]
        assert (pulled / "model").read_bytes() == (lazy / "model").read_bytes() == CONTENT
        node.hide(lazy, pulled)
        node.check_nothing_is_left()


# -- who may read


def test_volumes_of_one_credential_share_a_process_and_those_of_two_do_not(node: LazyNode, fake: FakeRegistry) -> None:
    reference = fake.artifact("t/x", [LAYER])
    for user in ("alice", "bob"):
        fake.require_basic(user, planted(f"{user}-knows"))
    secrets = {user: {"username": user, "password": planted(f"{user}-knows")} for user in ("alice", "bob")}
    first, second = (node.show(reference, secrets=secrets["alice"]) for _ in range(2))
    assert len(node.serving()) == 1
    third = node.show(reference, secrets=secrets["bob"])
    assert len(node.serving()) == 2
    for target in (first, second, third):
        assert (target / "model").read_bytes() == CONTENT
    node.hide(first)
    assert len(node.serving()) == 2
    assert part(second / "model", 4 * MIB) == CONTENT[4 * MIB : 4 * MIB + 4096]
    node.hide(third)
    wait_for(lambda: len(node.serving()) == 1)
    node.hide(second)


def test_reader_with_another_credential_gets_what_is_being_fetched_for_the_first(
    node: LazyNode, fake: FakeRegistry
) -> None:
    reference = fake.artifact("t/x", [LAYER])
    for user in ("alice", "bob"):
        fake.require_basic(user, planted(f"{user}-knows"))
    targets = [
        node.show(reference, secrets={"username": user, "password": planted(f"{user}-knows")})
        for user in ("alice", "bob")
    ]
    held = Held()
    fake.bend(BLOB, held)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(part, targets[0] / "model", 0)
        held.wait()
        second = pool.submit(part, targets[1] / "model", 11 * MIB)
        wait_for(lambda: node.log.count("registry is asked") >= 4)
        held.release()
        assert first.result(30) == CONTENT[:4096]
        assert second.result(30) == CONTENT[11 * MIB : 11 * MIB + 4096]
    node.hide(*targets)


def test_credential_that_was_rotated_is_taken_from_the_next_publish(node: LazyNode, fake: FakeRegistry) -> None:
    """As the kubelet publishes again what it has published."""
    reference = fake.artifact("t/x", [LAYER])
    fake.require_basic("alice", planted("old-one"))
    options = {"reference": reference, "name": "volume"}
    model = node.show(**options, secrets={"username": "alice", "password": planted("old-one")}) / "model"
    assert part(model, 0) == CONTENT[:4096]
    fake.require_basic("alice", planted("new-one"))
    node.kill()  # with what it remembers of the registry
    node.start()
    with pytest.raises(OSError, match=_EIO):
        part(model, 8 * MIB)
    node.show(**options, secrets={"username": "alice", "password": planted("new-one")})
    assert model.read_bytes() == CONTENT
    node.hide(model.parent)


# -- where there is no room


def test_full_disk_is_said_to_who_reads_and_reading_goes_on_when_there_is_room(
    short_path: Path, fake: FakeRegistry
) -> None:
    reference = fake.artifact("t/x", [LAYER])
    with small_disk(short_path / "state", "64m") as disk, LazyNode(short_path) as node:
        model = node.show(reference) / "model"
        disk.fill()
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            part(model, 8 * MIB)
        disk.clear()
        assert model.read_bytes() == CONTENT
        node.hide(model.parent)
        node.check_nothing_is_left()


def test_collection_takes_nothing_of_what_a_lazy_volume_reads(node: LazyNode, fake: FakeRegistry) -> None:
    small = random.Random(3).randbytes(4096)  # noqa: S311 (any bytes)
    target = node.show(fake.artifact("t/x", [LAYER, *files(small=small)]))
    model = target / "model"
    assert (target / "small").read_bytes() == small
    assert part(model, 8 * MIB) == CONTENT[8 * MIB : 8 * MIB + 4096]
    node.collect()
    assert sha256(small) in Outside(node.state).blobs()
    asked = len(fake.seen(sha256(small)))
    node.kill_serving()
    assert (target / "small").read_bytes() == small
    assert model.read_bytes() == CONTENT
    node.collect()
    assert model.read_bytes() == CONTENT
    assert len(fake.seen(sha256(small))) == asked
    node.hide(target)
    node.collect()
    assert Outside(node.state).blobs() == set()
