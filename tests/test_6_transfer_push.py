"""Pushes of artifacts: what is missing and nothing else, the manifest after all that it names, a tag by nobody."""

import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.errors import AccessDeniedError, ContentChangedError, RegistryUnavailableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.registries import Registries
from csi_oras.registry.sources import Readable, in_memory
from csi_oras.registry.transport import Transport
from csi_oras.telemetry.progress import Progress
from csi_oras.transfer.files import find_files, layers_of
from csi_oras.transfer.push import PushedLayer, Pusher, Pushing, in_repository, manifest_of
from tests.support.artifacts import FILE_TYPE, TITLE, sha256
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, status
from tests.support.fakes import Connect
from tests.support.pods import wait_for

pytest_plugins = ["tests.support.fake_fixtures"]

UPLOADS = "/blobs/uploads/"


def layer(content: bytes, title: str = "", mount_from: Repository | None = None) -> PushedLayer:
    blob = Descriptor.of(content, FILE_TYPE, {TITLE: title or content.decode()})
    return PushedLayer(blob=blob, source=in_memory(content), mount_from=mount_from)


def blobs(layers: list[PushedLayer]) -> list[Descriptor]:
    return [layer.blob for layer in layers]


@pytest.fixture
def client(connect: Connect) -> PushClient:
    """What pushes to `t/x`."""
    return connect().pushes()


def test_manifest_comes_after_all_that_it_names_and_has_no_tag(fake: FakeRegistry, client: PushClient) -> None:
    layers = [layer(b"one"), layer(b"two")]
    manifest = manifest_of(blobs(layers), "application/x.model", {"a": "b"})
    progress = Progress()
    pushed = Pusher().push(client, layers, manifest, progress)
    assert (pushed.digest, pushed.size, pushed.sent) == (manifest.digest, 6, 6)
    assert fake.manifests["t/x"].keys() == {str(manifest.digest)}
    *before, last = fake.seen()
    assert (last.method, last.path) == ("PUT", f"/v2/t/x/manifests/{manifest.digest}")
    assert fake.blobs["t/x"].keys() == {sha256(b"one"), sha256(b"two"), sha256(b"{}")}
    assert all("/blobs/" in request.path for request in before)
    document = json.loads(last.body)
    assert (document["artifactType"], document["annotations"]) == ("application/x.model", {"a": "b"})
    assert (progress.total, progress.done, progress.fetched) == (6, 6, 6)


def test_manifest_of_the_same_is_the_same() -> None:
    layers = blobs([layer(b"one"), layer(b"two")])
    assert manifest_of(layers).content == manifest_of(list(layers)).content
    assert manifest_of(layers).digest != manifest_of(layers[::-1]).digest


def test_what_is_there_is_not_sent(fake: FakeRegistry, client: PushClient) -> None:
    fake.blob("t/x", b"one")
    layers = [layer(b"one"), layer(b"three")]
    progress = Progress()
    pushed = Pusher().push(client, layers, manifest_of(blobs(layers)), progress)
    assert (pushed.size, pushed.sent) == (8, 5)
    assert (progress.done, progress.fetched) == (8, 5)
    again = Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    assert (again.digest, again.sent) == (pushed.digest, 0)
    assert fake.count(UPLOADS, "POST") == 2  # the layer and the config


def test_same_bytes_under_several_names_are_sent_once(fake: FakeRegistry, client: PushClient) -> None:
    layers = [layer(b"same", "a"), layer(b"same", "b"), layer(b"{}", "c")]
    pushed = Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    assert (pushed.size, pushed.sent) == (10, 6)
    assert fake.count(UPLOADS, "PUT") == 2


def test_artifact_without_layers_is_pushed(fake: FakeRegistry, client: PushClient) -> None:
    pushed = Pusher().push(client, [], manifest_of([]), Progress())
    assert json.loads(fake.manifests["t/x"][str(pushed.digest)][0])["layers"] == []


def test_blobs_of_one_registry_go_four_at_a_time(fake: FakeRegistry, client: PushClient) -> None:
    opened, lock, running, most = threading.Event(), threading.Lock(), [0], [0]

    def hold(_request: Request, answer: Answer) -> Answer:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        opened.wait(20)
        with lock:
            running[0] -= 1
        return answer

    fake.bend(UPLOADS, hold, method="POST")
    layers = [layer(str(number).encode()) for number in range(12)]
    pusher = Pusher()
    threads = [
        threading.Thread(target=pusher.push, args=(client, part, manifest_of(blobs(part)), Progress()))
        for part in (layers[:6], layers[6:])  # two artifacts share what a registry is given
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: running[0] == 4)
    opened.set()
    for thread in threads:
        thread.join()
    assert most[0] <= 4
    assert len(fake.manifests["t/x"]) == 2


def test_layer_is_sent_while_the_next_is_made(fake: FakeRegistry, client: PushClient) -> None:
    layers = [layer(b"one"), layer(b"two")]
    with Pusher().pushing(client, Progress()) as begun:
        begun.begin(layers[0])
        wait_for(lambda: sha256(b"one") in fake.blobs.get("t/x", {}))
        begun.begin(layers[1])
        assert begun.finish(manifest_of(blobs(layers))).sent == 6


def test_refusal_of_a_layer_is_told_to_who_makes_the_next(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, status(403), method="POST")
    made = count()

    def make(begun: Pushing) -> bool:
        begun.begin(layer(str(next(made)).encode()))
        return False

    with pytest.raises(AccessDeniedError), Pusher().pushing(client, Progress()) as begun:
        wait_for(lambda: make(begun))


# -- what is reused


def test_layer_of_a_base_is_mounted_and_counts_as_not_sent(fake: FakeRegistry, client: PushClient) -> None:
    fake.blob("t/base", b"one")
    base = Repository(registry=fake.address, name="t/base")
    layers = [layer(b"one", mount_from=base), layer(b"three")]
    pushed = Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    assert (pushed.size, pushed.sent) == (8, 5)
    assert fake.count(f"/t/base{UPLOADS}") == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_layer_of_a_base_at_another_registry_is_carried_over_as_far_as_it_broke(
    fake: FakeRegistry,
    connect: Connect,
    ranges: bool,  # noqa: FBT001 (pytest's call)
) -> None:
    content = os.urandom(3_000_000)
    with FakeRegistry() as other:
        other.blob("t/base", content)
        other.serves_ranges = ranges
        other.bend("/blobs/", lambda _request, answer: replace(answer, sent=2_500_000), times=1)
        base = connect("t/base", host=other.address)
        blob = Descriptor.of(content, FILE_TYPE)
        source = in_repository(base, blob)
        layers = [PushedLayer(blob=blob, source=source, mount_from=base.repository)]
        Pusher().push(connect().pushes(1 << 20), layers, manifest_of([blob]), Progress())
        assert other.count("/blobs/") >= 2
    assert fake.blobs["t/x"][sha256(content)] == content


# -- what fails


def test_refusal_of_a_layer_leaves_no_manifest_and_ends_what_waits(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, status(403), method="POST")
    layers = [layer(str(number).encode()) for number in range(200)]
    with pytest.raises(AccessDeniedError):
        Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    assert "t/x" not in fake.manifests
    assert fake.count(UPLOADS, "POST") < 200


def test_refusal_of_a_layer_ends_what_is_under_way(fake: FakeRegistry, client: PushClient) -> None:
    size, begun, refused = 256 << 20, threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if begun.is_set():
                refused.wait(20)
            begun.set()
            return len(buffer[: 64 << 10])

    def refuse(_request: Request, _answer: Answer) -> Answer:
        begun.wait(20)
        refused.set()
        return Answer(status=403)

    large = Descriptor(media_type=FILE_TYPE, digest=Digest.of(b"of no interest"), size=size)
    layers = [PushedLayer(blob=large, source=lambda _offset: Slow()), layer(b"denied")]
    fake.bend(sha256(b"denied"), refuse)
    with pytest.raises(AccessDeniedError):
        Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    wait_for(lambda: fake.count(UPLOADS, "DELETE") == 1)
    wait_for(lambda: fake.count(UPLOADS, "PUT") == 1)
    assert len(fake.seen(UPLOADS, "PUT")[0].body) < size


def test_layer_that_changed_leaves_no_manifest(fake: FakeRegistry, client: PushClient, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    layers = layers_of(find_files([tmp_path / "a"]), tmp_path)
    (tmp_path / "a").write_bytes(b"after.")
    with pytest.raises(ContentChangedError, match="changed while it was"):
        Pusher().push(client, layers, manifest_of(blobs(layers)), Progress())
    assert "t/x" not in fake.manifests
    assert fake.blobs.get("t/x", {}) == {}


def test_progress_of_a_layer_that_was_sent_twice_ends_at_its_size(fake: FakeRegistry, client: PushClient) -> None:
    content = os.urandom(100_000)
    layers = [layer(content, "a")]
    fake.interrupt(UPLOADS, 60_000, method="PUT", times=1)
    fake.bend(UPLOADS, status(404), method="GET")
    progress = Progress()
    Pusher().push(client, layers, manifest_of(blobs(layers)), progress)
    assert (progress.done, progress.total) == (100_000, 100_000)
    assert progress.fetched == 200_000


# -- real parts


@pytest.fixture
def registries() -> Iterator[Registries]:
    transport = Transport()
    yield Registries(transport)
    transport.close()


@pytest.mark.needs("registry")
def test_push_goes_on_after_a_registry_that_was_killed(tmp_path: Path, registries: Registries) -> None:
    contents = [os.urandom(200_000) for _ in range(6)]
    with Distribution(tmp_path) as registry:
        repository = Repository(registry=registry.address, name="t/x")
        client = registries.repository(repository, None).pushes()

        def killing(content: bytes) -> PushedLayer:
            """A layer whose registry ends when it is read."""

            def source(offset: int) -> AbstractContextManager[Readable]:
                registry.stop()
                return io.BytesIO(content[offset:])

            return replace(layer(content, "killing"), source=source)

        layers = [layer(content, str(number)) for number, content in enumerate(contents)]
        manifest = manifest_of(blobs(layers))
        with pytest.raises(RegistryUnavailableError):
            Pusher(share=1).push(client, [*layers[:3], killing(contents[3]), *layers[4:]], manifest, Progress())
        registry.start()
        assert client.tag_digest(str(manifest.digest)) is None
        pushed = Pusher().push(client, layers, manifest, Progress())
        assert pushed.sent == 3 * 200_000
        assert client.move_tag("v1", manifest.content, manifest.media_type, None)
        found = registries.repository(repository, None)
        assert found.manifest("v1", limit=1 << 20).digest == manifest.digest
        assert [found.small_blob(layer.blob) for layer in layers] == contents


@pytest.mark.needs("registry")
@pytest.mark.peer("oras")
def test_layers_are_those_of_oras(
    registry: Distribution, registries: Registries, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a", "d/e f", "empty"]
    for number, name in enumerate(names):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"x" * number)
    reference = f"{registry.address}/{repository}:v1"
    subprocess.run(["oras", "push", "--plain-http", reference, *names], check=True, capture_output=True)
    theirs = registries.repository(Repository(registry=registry.address, name=repository), None).manifest(
        "v1", limit=1 << 20
    )
    ours = manifest_of(blobs(layers_of(find_files([Path(name) for name in names]), tmp_path)))
    their_document, our_document = json.loads(theirs.content), json.loads(ours.content)
    assert our_document["layers"] == their_document["layers"]
    assert our_document["config"]["digest"] == their_document["config"]["digest"]
    assert our_document["artifactType"] == their_document["artifactType"]
    assert our_document["mediaType"] == their_document["mediaType"] == theirs.media_type
