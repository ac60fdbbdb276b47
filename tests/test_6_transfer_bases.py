"""Bases: what is below a volume comes from the store when it is pushed, whatever became of its registry or the disk."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras import config
from csi_oras.oci.digest import Digest
from csi_oras.store.writable import Base
from tests.support.artifacts import Layer, files, sha256
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.fakes import user
from tests.support.kinds import plant, tar
from tests.support.kinds_archives import oras_directory
from tests.support.outboxes import Outboxing, kept
from tests.support.outside import contents
from tests.support.pods import wait_for
from tests.support.rot import rot

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.outbox_fixtures"]
pytestmark = pytest.mark.needs("root")  # who makes a whiteout has to be

_LARGE = os.urandom(200_000)
"""Collection takes packed blobs from a certain size only."""


@pytest.fixture
def private() -> Iterator[FakeRegistry]:
    """Another registry, which wants a password that no outbox keeps."""
    with FakeRegistry() as running:
        yield running


def below(at: Outboxing, private: FakeRegistry, tmp_path: Path) -> tuple[Base, dict[str, bytes]]:
    """Pull a base of each kind of layer with a password, and return what it shows, too."""
    planted = plant(tmp_path / "packed")
    (planted / "large").write_bytes(_LARGE)
    program = Layer(content=_LARGE[::-1], title="run", annotations={"land.oras.csi.mode": "0755"})
    reference = private.artifact("t/base", [*files(a=b"1"), program, oras_directory("packed", tar(planted, "packed"))])
    private.require_basic("me", "right")
    pulled, base = at.pull(reference, user("me", "right"))
    return base, contents(pulled.path)


@pytest.mark.parametrize("changes", [{}, {"b": b"2"}, {"packed/large": b"new"}], ids=["none", "beside", "within"])
@pytest.mark.parametrize("pressed", [False, True])
def test_base_of_a_private_registry_is_pushed_elsewhere_without_its_password(
    at: Outboxing, private: FakeRegistry, target: str, tmp_path: Path, changes: dict[str, bytes], *, pressed: bool
) -> None:
    base, shown = below(at, private, tmp_path)
    if pressed:
        with at.app.leases.of_pull() as lease:
            lease.add([base.artifact, base.plan])  # as its volume does
            at.app.policy = config.parse("store: {minAge: 0s}", "policy")
            at.app.collector.make_some_room(1 << 40, 1)
    entry = at.capture(target, changes, base=base)
    at.push(entry)
    assert contents(at.pull(target)[0].path) == {**shown, **changes}


def test_layer_that_has_rotted_is_never_pushed_and_fetched_anew(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    _, base = at.pull(fake.artifact("t/base", files(a=b"1", large=_LARGE)))
    fake.mounts = False
    rot(at.app.content.path(Digest.parse(sha256(_LARGE))))
    entry = at.capture(target, {"b": b"2"}, base=base)
    at.outbox.begin(entry.writing)
    wait_for(lambda: entry.state().error != "")
    assert "has rotted on this node's disk" in entry.state().error
    assert fake.manifests.get("t/out", {}) == {}
    at.resume()
    at.retry(entry)
    wait_for(lambda: not entry.writing.directory.exists())
    assert contents(at.pull(target)[0].path) == {"a": b"1", "large": _LARGE, "b": b"2"}
    assert fake.blobs["t/out"].keys() == {sha256(content) for content in (b"1", b"2", _LARGE, b"{}")}


def test_rotten_base_of_a_private_registry_waits_for_a_credential_of_the_node(
    at: Outboxing, private: FakeRegistry, fake: FakeRegistry, target: str, tmp_path: Path
) -> None:
    base, shown = below(at, private, tmp_path)
    rot(at.app.content.path(Digest.parse(sha256(b"1"))))
    entry = at.capture(target, {"b": b"2"}, base=base)
    at.outbox.begin(entry.writing)
    at.resume()
    wait_for(lambda: "has rotted" in entry.state().error)
    at.retry(entry)
    wait_for(lambda: "the registry wants a credential" in entry.state().error)
    assert kept(entry.writing) == {"b": b"2"}
    assert "v1" not in fake.manifests.get("t/out", {})
    login = tmp_path / "login.json"
    login.write_text(json.dumps({"auths": {private.address: {"auth": basic("me", "right").partition(" ")[2]}}}))
    at.app.policy = config.parse(f"credentials: {{dockerConfig: [{login}]}}", "policy")
    at.retry(entry)
    wait_for(lambda: not entry.writing.directory.exists())
    assert contents(at.pull(target)[0].path) == {**shown, "b": b"2"}
