"""What is pushed of what a pod wrote: its files as they are, and nothing that the registry has from the base."""

import json
import os
import shutil
from pathlib import Path

import pytest

from csi_oras import config
from csi_oras.errors import PushRefusedError
from csi_oras.oci.digest import Digest
from csi_oras.telemetry.events import Reason
from tests.support.artifacts import EMPTY_TYPE, OCI_INDEX, Layer, files, sha256
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.fakes import user
from tests.support.outboxes import Outboxing, document, titles
from tests.support.pods import wait_for

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.outbox_fixtures"]
pytestmark = pytest.mark.needs("root")  # who makes a whiteout has to be

UPLOADS = "/blobs/uploads/"


def test_what_a_pod_wrote_is_an_artifact_of_titled_files(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    entry = at.capture(target, {"a": b"1", "deep/er/b": b"2", "empty": b""})
    digest = at.push(entry)
    assert str(digest) == sha256(fake.manifests["t/out"]["v1"][0])
    assert titles(fake) == {"a": b"1", "deep/er/b": b"2", "empty": b""}
    annotations = document(fake)["annotations"]
    assert annotations["land.oras.csi.pod.name"] == "writer"
    assert annotations["land.oras.csi.pod.namespace"] == "team"
    assert at.states == []
    assert list((at.state / "outbox").iterdir()) == []
    assert at.told == [(Reason.PUSHED, f"pushed {target}@{digest}")]


def test_nothing_written_above_nothing_is_an_artifact_without_files(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    at.push(at.capture(target, {}))
    assert [layer["mediaType"] for layer in document(fake)["layers"]] == [EMPTY_TYPE]
    assert at.pull(target)[0].files == 0


def test_unchanged_files_of_the_base_are_mounted_and_not_sent(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    large = os.urandom(1 << 20)
    reference = fake.artifact("t/base", files(large=large, old=b"old", gone=b"gone"), artifactType="application/x.y")
    _, base = at.pull(reference)
    at.push(at.capture(target, {"old": b"new", "more": b"more", "gone": None}, base=base))
    assert titles(fake) == {"large": large, "old": b"new", "more": b"more"}
    assert not [request for request in fake.seen(UPLOADS) if request.body == large]
    pushed = document(fake)
    assert pushed["artifactType"] == "application/x.y"
    assert pushed["annotations"]["org.opencontainers.image.base.name"] == reference
    assert pushed["annotations"]["org.opencontainers.image.base.digest"] == str(base.artifact)
    assert document(fake, repository="t/base")["layers"][0] in pushed["layers"]
    assert at.app.leases.held().holders == {}


def test_files_of_a_base_in_the_same_repository_are_not_asked_for_one_by_one(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    _, base = at.pull(fake.artifact("t/out", files(kept=b"kept", changed=b"1")))
    at.push(at.capture(target, {"changed": b"2"}, base=base, meant=base.artifact))
    assert titles(fake) == {"kept": b"kept", "changed": b"2"}
    assert fake.count(f"/blobs/{sha256(b'kept')}", "HEAD") == 0
    assert fake.count(f"/blobs/{sha256(b'2')}", "HEAD") == 1


@pytest.mark.parametrize("refusal", [400, 404])
def test_files_of_a_base_that_the_repository_has_lost_are_sent_again(
    at: Outboxing, fake: FakeRegistry, target: str, refusal: int
) -> None:
    _, base = at.pull(fake.artifact("t/out", files(kept=b"kept")))
    del fake.blobs["t/out"][sha256(b"kept")]
    fake.bend("/manifests/sha256:", status(refusal), method="PUT", times=1)
    at.push(at.capture(target, {"new": b"new"}, base=base, meant=base.artifact))
    assert titles(fake) == {"kept": b"kept", "new": b"new"}


def test_manifest_that_is_refused_whatever_the_repository_has_is_refused(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    _, base = at.pull(fake.artifact("t/out", files(kept=b"kept")))
    fake.bend("/manifests/", status(413), method="PUT")
    entry = at.capture(target, {"new": b"new"}, base=base, meant=base.artifact)
    with pytest.raises(PushRefusedError):
        at.outbox.attempt(entry)


def test_unchanged_volume_tags_the_manifest_of_its_base(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    _, base = at.pull(fake.artifact("t/base", files(a=b"1", b=b"2")))
    digest = at.push(at.capture(target, {}, base=base))
    assert digest == base.artifact
    assert fake.manifests["t/out"]["v1"] == fake.manifests["t/base"]["v1"]
    assert fake.blobs["t/out"].keys() >= {sha256(b"1"), sha256(b"2"), sha256(b"{}")}


@pytest.mark.parametrize(
    ("selected", "expected"),
    [({"include": "d/*"}, {"d/b": b"2"}), ({"path": "d"}, {"b": b"2"}), ({"mediaTypes": "x/y"}, {"c": b"3"})],
    ids=lambda case: next(iter(case)),
)
def test_unchanged_volume_that_showed_only_a_part_pushes_that_part(
    at: Outboxing, fake: FakeRegistry, target: str, selected: dict[str, str], expected: dict[str, bytes]
) -> None:
    layers = [*files(a=b"1"), Layer(content=b"2", title="d/b"), Layer(content=b"3", title="c", media_type="x/y")]
    _, base = at.pull(fake.artifact("t/base", layers), None, **selected)
    at.push(at.capture(target, {}, base=base))
    assert titles(fake) == expected


@pytest.mark.parametrize("elsewhere", [False, True])
def test_unchanged_volume_takes_what_it_never_showed_from_the_repository_of_its_base(
    at: Outboxing, fake: FakeRegistry, target: str, *, elsewhere: bool
) -> None:
    config = Layer(content=b"of somebody's tool", media_type="application/x.config")
    with FakeRegistry() as other:
        registry = other if elsewhere else fake
        registry.blob("t/base", config.content)
        _, base = at.pull(registry.artifact("t/base", files(a=b"1"), config=config))
        digest = at.push(at.capture(target, {}, base=base))
    assert titles(fake) == {"a": b"1"}
    assert (digest == base.artifact) != elsewhere  # no credential for another registry is kept
    assert (sha256(config.content) in fake.blobs["t/out"]) != elsewhere


def test_renamed_file_of_the_base_is_mounted_and_not_sent(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    large = os.urandom(1 << 20)
    _, base = at.pull(fake.artifact("t/base", files(large=large)))
    at.push(at.capture(target, {"large": None, "renamed": large}, base=base))
    assert titles(fake) == {"renamed": large}
    assert not [request for request in fake.seen(UPLOADS) if request.body == large]


def test_collection_leaves_the_base_of_what_waits(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    _, base = at.pull(fake.artifact("t/base", files(a=b"1")))
    fake.bend("/v2/t/out", status(503))
    entry = at.capture(target, {"b": b"2"}, base=base)
    at.outbox.begin(entry.writing)
    wait_for(lambda: entry.state().error != "")
    at.app.policy = config.parse("store: {minAge: 0s}", "policy")
    assert at.app.collector.collect(everything=True).removed == []
    wait_for(lambda: not entry.is_locked())
    at.outbox.drop(entry)
    assert at.app.collector.collect(everything=True).removed != []


def test_volume_written_with_the_same_bytes_tags_the_manifest_of_its_base(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    _, base = at.pull(fake.artifact("t/base", files(a=b"1", b=b"2")))
    assert at.push(at.capture(target, {"a": b"1"}, base=base)) == base.artifact


def test_unchanged_volume_of_an_index_tags_the_manifest_of_its_platform(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    entries = []
    for architecture in ("amd64", "arm64"):
        fake.artifact("t/base", files(a=architecture.encode()), tag=architecture)
        content = fake.manifests["t/base"][architecture][0]
        platform = {"os": "linux", "architecture": architecture}
        entries.append(
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(content), "size": len(content),
             "platform": platform}
        )  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    fake.manifest("t/base", "v1", json.dumps(index).encode(), OCI_INDEX)
    _, base = at.pull(f"{fake.address}/t/base:v1", platform="linux/arm64")
    assert at.push(at.capture(target, {}, base=base)) == Digest.parse(entries[1]["digest"])
    assert titles(fake) == {"a": b"arm64"}


def test_base_of_a_kind_of_its_own_becomes_titled_files(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    layers = [Layer(content=b"MIT", media_type="application/vnd.ollama.image.license"), *files(other=b"1")]
    shown, base = at.pull(fake.artifact("t/base", layers))
    names = {path.name: path.read_bytes() for path in shown.path.iterdir()}
    assert b"MIT" in names.values()
    at.push(at.capture(target, {"new": b"2"}, base=base))
    again = at.pull(target)[0].path
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {**names, "new": b"2"}


def test_base_that_left_the_store_is_pulled_again(fake: FakeRegistry, target: str, tmp_path: Path) -> None:
    fake.require_basic("me", "right")
    at = Outboxing(tmp_path / "node")
    credential = user("me", "right")
    _, base = at.pull(fake.artifact("t/base", files(a=b"1", b=b"2")), credential)
    at.capture(target, {"c": b"3"}, base=base, credential=credential)
    at.close()
    for left in ("blobs", "trees", "state.db"):
        path = at.state / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = Outboxing(tmp_path / "node")
    again.push(again.app.captured.all()[0])
    assert titles(fake) == {"a": b"1", "b": b"2", "c": b"3"}
    again.close()


def test_base_of_another_registry_is_sent_from_the_store_though_its_registry_is_gone(
    at: Outboxing, fake: FakeRegistry, target: str
) -> None:
    with FakeRegistry() as other:
        _, base = at.pull(other.artifact("t/base", files(a=b"1")))
    at.push(at.capture(target, {"b": b"2"}, base=base))
    assert titles(fake) == {"a": b"1", "b": b"2"}


def test_what_is_not_selected_is_not_pushed(at: Outboxing, fake: FakeRegistry, target: str) -> None:
    at.push(at.capture(target, {"keep/a": b"1", "b.tmp": b"2"}, include=("./keep/",)))
    assert titles(fake) == {"keep/a": b"1"}


def test_packed_directories_links_and_modes_come_back(at: Outboxing, target: str) -> None:
    entry = at.capture(target, {"run.sh": b"#!/bin/sh", "d/file": b"1"})
    (entry.writing.upper / "run.sh").chmod(0o755)
    (entry.writing.upper / "d/link").symlink_to("file")
    (entry.writing.upper / "d/none").mkdir()
    at.push(entry)
    shown = at.pull(target)[0].path
    assert os.access(shown / "run.sh", os.X_OK)
    assert (shown / "d/link").readlink() == Path("file")
    assert (shown / "d/file").read_bytes() == b"1"
    assert list((shown / "d/none").iterdir()) == []
    assert list((at.state / "staging").iterdir()) == []
