"""Chunk indexes of an artifact: found by the best way there is, pushed with it, and never in the way of a volume."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_oras.errors import RegistryUnavailableError
from csi_oras.oci import manifest as manifests
from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.store.chunk_indexes import OwnIndexes
from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants
from csi_oras.store.paths import StatePaths
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.chunk_indexes import ChunkIndexes, FoundIndexes, Trust
from csi_oras.transfer.files import find_files, layers_of
from csi_oras.transfer.push import Pusher, manifest_of
from tests.support.artifacts import EMPTY_TYPE, OCI_INDEX, OCI_MANIFEST, TITLE, Layer, files, sha256
from tests.support.chunks import ANNOTATION, INDEX_TYPE, blob_index, chunk_index, listed, lying, referrer
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import body, status
from tests.support.fakes import Connect, user
from tests.support.outboxes import Outboxing

pytest_plugins = ["tests.support.fake_fixtures"]

MIB = 1 << 20
BIG, OTHER = os.urandom(3 * MIB + 5), os.urandom(2 * MIB)
LAYERS = [Layer(content=BIG, title="big"), Layer(content=b"small", title="small"), Layer(content=OTHER, title="other")]


class Node:
    """What finds indexes, over a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths.create(directory / "state")
        grants = Grants(Database(self.paths.database))
        self.own = OwnIndexes(self.paths)
        self.content = ContentStore(self.paths, grants)
        self.indexes = ChunkIndexes(self.own, self.content, grants, b"key")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    running = Node(tmp_path)
    yield running
    running.content.close()


def put(fake: FakeRegistry, annotation: str | None = None, name: str = "t/x") -> bytes:
    """Put an artifact there, which may bind an index, and return its manifest."""
    annotations: dict[str, Any] = {} if annotation is None else {"annotations": {ANNOTATION: annotation}}
    fake.artifact(name, LAYERS, **annotations)
    return fake.manifests[name]["v1"][0]


def refer(fake: FakeRegistry, artifact: bytes, *indexes: bytes, artifact_type: str = INDEX_TYPE) -> None:
    """Have indexes refer to an artifact, by the tag that holds their list."""
    referrers = [referrer(index, artifact) for index in indexes]
    for index, content in zip(indexes, referrers, strict=True):
        fake.blob("t/x", index)
        fake.manifest("t/x", sha256(content), content)
    tag = sha256(artifact).replace(":", "-")
    fake.manifest("t/x", tag, listed(*referrers, artifact_type=artifact_type), OCI_INDEX)


def parsed(artifact: bytes) -> Manifest:
    found = manifests.parse(artifact, OCI_MANIFEST, "artifact", most_layers=10)
    assert isinstance(found, Manifest)
    return found


def find(node: Node, connect: Connect, artifact: bytes, **options: Any) -> FoundIndexes:
    client = options.pop("client", None) or connect()
    return node.indexes.find(client, parsed(artifact), Digest.of(artifact), **options)


def trusts(found: FoundIndexes) -> dict[str, str]:
    """Return how each blob's index is to be believed, by its title; each has to be what it should."""
    said = {}
    for layer in LAYERS:
        blob = found.of(Descriptor.of(layer.content, layer.media_type))
        if blob:
            assert blob.index == blob_index(layer.content)
            said[str(layer.title)] = str(blob.trust)
    return said


# -- where they are


def test_artifact_without_any_has_none(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    assert trusts(find(node, connect, put(fake))) == {}


def test_index_that_the_manifest_names_is_bound(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    artifact = put(fake, fake.blob("t/x", chunk_index(BIG, OTHER)))
    assert trusts(find(node, connect, artifact)) == {"big": "bound", "other": "bound"}
    assert fake.count("/referrers/") == 0


def test_bound_index_is_fetched_once_for_who_may_read_it(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    index = fake.blob("t/x", chunk_index(BIG, OTHER))
    artifact = put(fake, index)
    find(node, connect, artifact)
    find(node, connect, artifact)
    assert fake.count(index) == 1
    find(node, connect, put(fake, index, "t/y"), client=connect("t/y"))  # which has no such blob
    assert fake.count(f"/t/y/blobs/{index}") > 0


def test_bound_index_of_a_stranger_is_fetched_again(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    index = fake.blob("t/x", chunk_index(BIG, OTHER))
    artifact = put(fake, index)
    fake.require_basic("me", "right")
    assert trusts(find(node, connect, artifact, client=connect("t/x", user("me", "right")))) != {}
    assert trusts(find(node, connect, artifact, client=connect("t/x", user("me", "wrong")))) == {}


def test_own_index_is_enough_and_asks_nobody(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    artifact = put(fake, fake.blob("t/x", lying(BIG)))
    for content in (BIG, OTHER):
        node.own.add(blob_index(content))
    assert trusts(find(node, connect, artifact)) == {"big": "own", "other": "own"}
    assert fake.count() == 0


def test_without_a_registry_there_is_the_nodes_own(node: Node, fake: FakeRegistry) -> None:
    node.own.add(blob_index(BIG))
    artifact = put(fake, fake.blob("t/x", chunk_index(OTHER)))
    assert trusts(node.indexes.find(None, parsed(artifact), Digest.of(artifact))) == {"big": "own"}
    assert fake.count() == 0


def test_referrer_is_a_hint(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    artifact = put(fake)
    refer(fake, artifact, chunk_index(BIG, OTHER))
    assert trusts(find(node, connect, artifact)) == {"big": "hint", "other": "hint"}
    fake.requests.clear()
    assert trusts(find(node, connect, artifact, hints=False)) == {}
    assert fake.count() == 0


@pytest.mark.parametrize("artifact_type", ["", EMPTY_TYPE])
def test_referrer_of_a_registry_that_knows_no_artifact_types_is_a_hint(
    node: Node, fake: FakeRegistry, connect: Connect, artifact_type: str
) -> None:
    artifact = put(fake)
    refer(fake, artifact, chunk_index(BIG), artifact_type=artifact_type or "application/x")
    assert trusts(find(node, connect, artifact)) == ({"big": "hint"} if artifact_type else {})


def test_each_blob_is_taken_from_the_best_that_has_it(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    third = os.urandom(MIB + 1)
    layers = [*LAYERS, Layer(content=third, title="third")]
    fake.artifact("t/x", layers, annotations={ANNOTATION: fake.blob("t/x", chunk_index(BIG))})
    artifact = fake.manifests["t/x"]["v1"][0]
    refer(fake, artifact, chunk_index(BIG), chunk_index(third))
    node.own.add(blob_index(OTHER))
    found = find(node, connect, artifact)
    assert trusts(found) == {"big": "bound", "other": "own"}
    last = found.of(Descriptor.of(third, "a/b"))
    assert last is not None
    assert last.trust is Trust.HINT


def test_artifact_of_small_blobs_is_not_looked_for(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    fake.artifact("t/x", files(a=b"a"), annotations={ANNOTATION: fake.blob("t/x", chunk_index(BIG))})
    assert find(node, connect, fake.manifests["t/x"]["v1"][0]).blobs == {}
    assert fake.count() == 0


# -- those that are none


def test_index_that_is_not_there_is_none(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    assert trusts(find(node, connect, put(fake, sha256(b"gone")))) == {}


@pytest.mark.parametrize(
    "content",
    [b"<html>", b"{}", b"[" * 10_000, chunk_index(BIG)[:-1], chunk_index(BIG) + b" " * (1 << 20)],
    ids=["page", "no blobs", "nested", "torn", "padded"],
)
def test_index_that_is_none_leads_to_the_next(node: Node, fake: FakeRegistry, connect: Connect, content: bytes) -> None:
    artifact = put(fake, fake.blob("t/x", content))
    refer(fake, artifact, content, chunk_index(BIG, OTHER))
    assert trusts(find(node, connect, artifact)) == {"big": "hint", "other": "hint"}


def test_index_whose_bytes_are_others_is_none(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    index = fake.blob("t/x", chunk_index(BIG, OTHER))
    fake.bend(f"/blobs/{index}", body(lying(BIG)))
    assert trusts(find(node, connect, put(fake, index))) == {}
    assert not node.content.path(Digest.parse(index)).exists()


def test_index_that_says_another_size_of_a_blob_says_nothing(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    document = json.loads(chunk_index(OTHER))
    document["blobs"][0]["digest"] = sha256(BIG)
    index = fake.blob("t/x", json.dumps(document).encode())
    assert trusts(find(node, connect, put(fake, index))) == {}


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_registry_that_gives_no_index_is_no_error(node: Node, fake: FakeRegistry, connect: Connect, code: int) -> None:
    index = fake.blob("t/x", chunk_index(BIG))
    artifact = put(fake, index)
    refer(fake, artifact, chunk_index(OTHER))
    fake.bend("/blobs/", status(code))
    fake.bend("/manifests/", status(code))
    assert trusts(find(node, connect, artifact)) == {}


def test_referrers_without_end_are_cut_off(node: Node, fake: FakeRegistry, connect: Connect) -> None:
    artifact = put(fake)
    refer(fake, artifact, *(b"%d" % number for number in range(30)))
    assert trusts(find(node, connect, artifact)) == {}
    assert fake.count("/manifests/sha256:") == 10


# -- what is pushed


def push(fake: FakeRegistry, connect: Connect, directory: Path, contents: dict[str, bytes]) -> dict[str, Any]:
    """Push files as the command does, and return the manifest."""
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    layers = layers_of(find_files([directory / name for name in contents]), directory)
    index = ChunkIndex.of(layer.chunks for layer in layers)
    made = manifest_of([layer.blob for layer in layers], index=index)
    Pusher().push(connect().pushes(), layers, made, Progress())
    found: dict[str, Any] = json.loads(fake.manifests["t/x"][str(made.digest)][0])
    return found


def test_push_of_large_files_binds_their_index(
    node: Node, fake: FakeRegistry, connect: Connect, tmp_path: Path
) -> None:
    document = push(fake, connect, tmp_path, {"big": BIG, "other": OTHER, "small": b"s"})
    digest = document["annotations"][ANNOTATION]
    assert fake.blobs["t/x"][digest] == chunk_index(BIG, OTHER)
    (artifact,) = (held for held, _ in fake.manifests["t/x"].values() if b'"big"' in held)
    assert trusts(find(node, connect, artifact)) == {"big": "bound", "other": "bound"}
    (entry,) = connect().referrers(Digest.of(artifact), INDEX_TYPE)
    refers = json.loads(fake.manifests["t/x"][str(entry.digest)][0])
    assert refers["layers"] == [{"mediaType": INDEX_TYPE, "digest": digest, "size": len(chunk_index(BIG, OTHER))}]
    assert refers["subject"]["digest"] == sha256(artifact)


def test_push_of_small_files_is_what_oras_makes(fake: FakeRegistry, connect: Connect, tmp_path: Path) -> None:
    document = push(fake, connect, tmp_path, {"a": b"a", "b": bytes(MIB)})
    assert "annotations" not in document
    assert len(fake.manifests["t/x"]) == 1


def test_push_of_the_same_is_the_same(fake: FakeRegistry, connect: Connect, tmp_path: Path) -> None:
    first = push(fake, connect, tmp_path, {"big": BIG})
    held = dict(fake.manifests["t/x"])
    assert push(fake, connect, tmp_path, {"big": BIG}) == first
    assert fake.manifests["t/x"] == held


@pytest.mark.parametrize("code", [400, 403, 404, 413])
def test_registry_that_refuses_referrers_has_the_artifact(
    fake: FakeRegistry, connect: Connect, tmp_path: Path, code: int
) -> None:
    fake.bend(
        "/manifests/",
        lambda request, answer: status(code)(request, answer) if b'"subject"' in request.body else answer,
        method="PUT",
    )
    assert push(fake, connect, tmp_path, {"big": BIG})["layers"]


def test_registry_that_fails_at_the_referrer_fails_the_push(
    fake: FakeRegistry, connect: Connect, tmp_path: Path
) -> None:
    tag = "/manifests/sha256-"
    fake.bend(tag, status(503), method="PUT")
    with pytest.raises(RegistryUnavailableError):
        push(fake, connect, tmp_path, {"big": BIG})


# -- what pods write


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outboxing]:
    running = Outboxing(tmp_path / "node")
    yield running
    running.close()


def written(fake: FakeRegistry, repository: str) -> dict[str, bytes]:
    """Return what the index of a pushed volume says, by titles."""
    document = json.loads(fake.manifests[repository]["v1"][0])
    index = ChunkIndex.parse(fake.blobs[repository][document["annotations"][ANNOTATION]], "index")
    layers = {layer["digest"]: layer["annotations"][TITLE] for layer in document["layers"]}
    return {layers[str(digest)]: blob.digests for digest, blob in index.blobs.items()}


@pytest.mark.needs("root")
def test_large_file_that_a_pod_wrote_is_indexed(outbox: Outboxing, fake: FakeRegistry) -> None:
    digest = outbox.push(outbox.capture(f"{fake.address}/t/out:v1", {"big": BIG, "small": b"s"}))
    assert written(fake, "t/out") == {"big": blob_index(BIG).digests}
    assert f"sha256-{digest.encoded}" in fake.manifests["t/out"]


@pytest.mark.needs("root")
def test_what_is_reused_takes_its_entry_from_the_bases_index(outbox: Outboxing, fake: FakeRegistry) -> None:
    index = fake.blob("t/base", chunk_index(BIG))
    reference = fake.artifact("t/base", LAYERS, annotations={ANNOTATION: index})
    _, base = outbox.pull(reference)
    outbox.push(outbox.capture(f"{fake.address}/t/out:v1", {"new": OTHER[::-1]}, base=base))
    expected = {"big": blob_index(BIG).digests, "new": blob_index(OTHER[::-1]).digests}
    assert written(fake, "t/out") == expected  # of `other`, nobody knows the chunks


@pytest.mark.needs("root")
def test_base_whose_index_is_gone_is_reused_without(outbox: Outboxing, fake: FakeRegistry) -> None:
    reference = fake.artifact("t/base", LAYERS, annotations={ANNOTATION: sha256(b"gone")})
    _, base = outbox.pull(reference)
    outbox.push(outbox.capture(f"{fake.address}/t/out:v1", {"new": b"n"}, base=base))
    assert ANNOTATION not in json.loads(fake.manifests["t/out"]["v1"][0])["annotations"]


@pytest.mark.needs("root")
def test_base_that_nobody_changed_takes_its_index_along(outbox: Outboxing, fake: FakeRegistry) -> None:
    index = fake.blob("t/base", chunk_index(BIG, OTHER))
    reference = fake.artifact("t/base", LAYERS, annotations={ANNOTATION: index})
    _, base = outbox.pull(reference)
    digest = outbox.push(outbox.capture(f"{fake.address}/t/out:v1", {}, base=base))
    assert str(digest) == sha256(fake.manifests["t/base"]["v1"][0])
    assert fake.blobs["t/out"][index] == chunk_index(BIG, OTHER)
    assert f"sha256-{digest.encoded}" in fake.manifests["t/out"]


def test_annotations_of_a_manifest_are_not_lost() -> None:
    index = ChunkIndex.of([blob_index(BIG)])
    made = manifest_of([Descriptor.of(BIG, "a/b")], annotations={"a": "b"}, index=index)
    assert json.loads(made.content)["annotations"] == {"a": "b", ANNOTATION: sha256(chunk_index(BIG))}
