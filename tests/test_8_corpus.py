"""The corpus through a real publish: a real driver process among canaries, a real registry where it takes the artifact.

Every row is held to its verdict, and whatever the verdict: nothing around the volumes changed, nothing stays mounted,
nothing stays in staging, and the driver goes on serving.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from csi_oras.demo.distribution import Distribution
from csi_oras.oci.platform import Platform
from tests.support import corpus_artifacts as shapes
from tests.support import corpus_bytes, tars
from tests.support.artifacts import EMPTY_TYPE, OCI_INDEX, Layer, Pusher, files, manifest, sha256
from tests.support.corpus import CORPUS, Expectation, Row, load, names_of, spelled
from tests.support.corpus_driver import Watch
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request

pytestmark = pytest.mark.needs("root", "registry")
_REPOSITORY = "corpus/rows"
_AT_ONCE = 4
_numbers = count(1)
_FILES = ("archives.json", "bombs.json", "kinds.json", "manifests.json", "requests.json")


Case = tuple[dict[str, Any], Expectation, str]
"""An artifact, its verdict, and a word that a refusal's message must hold beside its rule."""


class Bench:
    """What all rows share: the driver among its canaries, and two registries.

    A row's first case goes through a real registry, where every blob is a file that is synced; the others through
    the one of our own, which is ten times as fast.
    """

    def __init__(self, watch: Watch, registry: Distribution, fake: FakeRegistry) -> None:
        self.watch = watch
        self.fake = fake
        self.pusher = Pusher(registry.address)
        self._good = self.push({"layers": files(good=b"good")}, self.pusher)

    def push(self, artifact: dict[str, Any], registry: Pusher | FakeRegistry) -> str:
        """Put an artifact into a registry and return its reference."""
        tag = f"row-{next(_numbers)}"
        config = artifact.get("config") or Layer(content=b"{}", media_type=EMPTY_TYPE)
        for layer in (config, *artifact["layers"]):
            registry.blob(_REPOSITORY, layer.content)
        registry.manifest(_REPOSITORY, tag, manifest(artifact["layers"], config))
        return f"{registry.address}/{_REPOSITORY}:{tag}"

    def hold(self, cases: Iterable[Case]) -> None:
        """Publish each case, all at once, and hold them to their verdicts; a refusal names the artifact."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            held = [pool.submit(self._hold, case, is_first=not number) for number, case in enumerate(cases)]
            for one in held:
                one.result()
        self.watch.check()
        self.assert_serving()

    def _hold(self, case: Case, *, is_first: bool) -> None:
        artifact, expected, word = case
        reference = self.push(artifact, self.pusher if is_first else self.fake)
        self.watch.run(expected, reference, word, reference=reference)

    def assert_serving(self) -> None:
        """See that a good artifact still mounts."""
        good = Expectation(verdict="mounted", names=["good = good"])
        self.watch.run(good, reference=self._good, pullPolicy="IfNotPresent")


@pytest.fixture(scope="module")
def bench(registry: Distribution) -> Iterator[Bench]:
    base = Path(tempfile.mkdtemp(prefix="co-"))
    with FakeRegistry() as fake, Watch(base).running() as watch:
        made = Bench(watch, registry, fake)
        yield made
        watch.assert_trees_are_their_plans()
        watch.assert_modest()
    shutil.rmtree(base)


# -- names, under everything that carries one

NAMES = json.loads((CORPUS / "names.json").read_text())
OTHERWISE = {
    (item["carrier"], item["row"], item["name"]): item for item in json.loads((CORPUS / "carriers.json").read_text())
}


def _verdict_on_name(carrier: str, item: dict[str, Any]) -> Expectation:
    other = OTHERWISE.get((carrier, item["row"], item["name"]), {})
    verdict = other.get("verdict", item["verdict"])
    if verdict == "refuse":
        return Expectation(verdict="refused", rule=other.get("detail", item.get("reason", "")))
    if carrier == "kitfile":
        above = other.get("detail") or str(PurePosixPath(item["title"]).parent / "m")
        return Expectation(verdict="mounted", names=["Kitfile", *names_of(above)])
    if verdict == "untitled":
        return Expectation(verdict="mounted", names=["sha256-" + sha256(shapes.CONTENT)[7:]])
    return Expectation(verdict="mounted", names=names_of(other.get("detail", item["title"])))


@pytest.mark.parametrize("item", NAMES, ids=lambda item: f"{item['row']} {item['name']}")
def test_name_has_its_verdict_whatever_carries_it(bench: Bench, item: dict[str, Any]) -> None:
    bench.hold(
        (build(item["title"]), _verdict_on_name(carrier, item), "layer 0")
        for carrier, build in shapes.CARRIERS.items()
        if item["verdict"] != "untitled" or carrier not in ("member", "kitfile")
    )


# -- archives, under every compression

ARCHIVES = load("archives.json")


@pytest.mark.parametrize("row", ARCHIVES, ids=str)
def test_archive_has_its_verdict_however_it_is_packed(bench: Bench, row: Row) -> None:
    shape = spelled(row.shape, bench.watch.words)
    expected = replace(row.expected, names=spelled(list(row.expected.names), bench.watch.words))
    members, end = shape["members"], shape.get("end", 2)
    for carrier in shape.get("carriers", ["packed", "image"]):
        build = {"packed": shapes.archive, "image": shapes.image_of_one}[carrier]
        word = "" if shape.get("of the whole") else "layer 0"
        # decompression does not know what it is for, so images need not be packed in every way
        compressions = shapes.COMPRESSIONS if carrier == "packed" else ["+gzip"]
        bench.hold((build(members, compression, end), expected, word) for compression in compressions)


FOUND = load("found.json")
"""What the fuzzers found: archives and manifests as they were."""


@pytest.mark.parametrize("row", [*load("bombs.json"), *(row for row in FOUND if "contents" in row.shape)], ids=str)
def test_bytes_have_their_verdict(bench: Bench, row: Row) -> None:
    shape = spelled(row.shape, bench.watch.words)
    contents = [bytes.fromhex(text) for text in shape.get("contents", [])]
    contents = contents or [corpus_bytes.content(shape["bytes"])]
    artifacts = [shapes.packed(contents, shape["compression"])]
    if "image" in shape:
        artifacts.append(shapes.packed_image(contents, shape["compression"]))
    bench.hold((artifact, row.expected, "layer") for artifact in artifacts)


@pytest.mark.parametrize("compression", shapes.COMPRESSIONS)
def test_archive_cut_at_any_block_is_refused_or_whole(bench: Bench, compression: str) -> None:
    members: list[tars.Description] = [
        {"name": "d", "type": "directory"},
        {"name": "d/a", "content": "x" * 600},
        {"name": "b", "pax": {"path": "c"}},
    ]
    content = tars.tar(members)
    lengths = range(0, len(content), tars.BLOCK)
    assert len(lengths) == 10
    bench.hold(
        (shapes.packed([shapes.COMPRESSIONS[compression](content[:length])], compression), _cut_at(length), "layer 0")
        for length in lengths
    )


def _cut_at(length: int) -> Expectation:
    """Return the verdict on so many bytes: a directory is whole in one block, the file in four, the last in eight."""
    if length not in (0, 512, 2048, 4096, 4608):
        rule = "belongs to no member" if length == 3072 else "ends in the middle"
        return Expectation(verdict="refused", rule=rule)
    return Expectation(
        verdict="mounted", names=[name for end, name in ((512, "d/"), (2048, "d/a"), (4096, "c")) if length >= end]
    )


# -- whole artifacts of each kind


@pytest.mark.parametrize("row", load("kinds.json"), ids=str)
def test_artifact_of_a_kind_has_its_verdict(bench: Bench, row: Row) -> None:
    shape = spelled(row.shape, {**bench.watch.words, "repository": "rows"})
    artifact = shapes.of_parts(shape)
    reference = bench.push(artifact, bench.pusher)
    if shape.get("by_digest"):
        content = manifest(artifact["layers"], artifact["config"])
        reference = f"{reference.rpartition(':')[0]}@{sha256(content)}"
    words = {**bench.watch.words, "repository": "rows", "tag": reference.rpartition(":")[2]}
    expected = replace(row.expected, names=spelled(list(row.expected.names), words))
    bench.watch.run(expected, reference, reference=reference)
    bench.watch.check()
    bench.assert_serving()


# -- manifests that no registry would take


@pytest.mark.parametrize("row", [*load("manifests.json"), *(row for row in FOUND if "manifest" in row.shape)], ids=str)
def test_manifest_has_its_verdict(bench: Bench, row: Row) -> None:
    repository, digest = f"corpus/m{next(_numbers)}", sha256(shapes.CONTENT)[7:]
    shape = spelled(row.shape, bench.watch.words)
    content, blobs, media_type = shapes.document(shape)
    bench.fake.blobs[repository] = blobs
    if "index" in shape:
        machine = Platform.of_machine(os.uname().machine)
        entries = shape["index"] * shape.get("repeat_entry", 1)
        content, documents = shapes.index(entries, content, machine.architecture)
        for held in documents.values():
            bench.fake.manifest(repository, sha256(held), held, OCI_INDEX if b'"manifests"' in held else media_type)
        media_type = OCI_INDEX
    actual = bench.fake.manifest(repository, "v1", content, media_type)
    reference = f"{bench.fake.address}/{repository}:v1"
    if "pinned" in shape:
        pinned = actual if shape["pinned"] == "tag" else shape["pinned"]
        reference = f"{reference.replace(':v1', ':other')}@{pinned}"
    _bend(bench.fake, repository, shape.get("bend"))
    expected = replace(row.expected, names=spelled(list(row.expected.names), {"hex": digest}))
    try:
        bench.watch.run(expected, repository, reference=reference)
    finally:
        bench.fake.straighten()
    bench.assert_serving()


def _bend(fake: FakeRegistry, repository: str, how: dict[str, Any] | None) -> None:
    if how is None:
        return
    honest = fake.manifests[repository]["v1"]

    def bend(request: Request, answer: Answer) -> Answer:
        del request
        if how.get("serves"):
            answer = Answer(body=honest[0]).having(Content_Type=honest[1])
        if how.get("moves"):
            fake.manifest(repository, "v1", manifest(files(evil=b"evil")))
        body = how["body"].encode() if "body" in how else answer.body
        return replace(answer, body=body, headers={**answer.headers, **how.get("headers", {})})

    fake.bend(f"/v2/{repository}{how['path']}", bend, times=how.get("times", 1 << 30))


# -- requests that only a hostile kubelet or pod would send


@pytest.mark.parametrize("row", load("requests.json"), ids=str)
def test_request_has_its_verdict(bench: Bench, row: Row) -> None:
    reference = bench.push(shapes.titled("x"), bench.pusher)
    repository = _REPOSITORY
    words = {
        **bench.watch.words,
        "kubelet": str(bench.watch.driver.kubelet),
        "address": bench.pusher.address,
        "repository": repository,
        "REPOSITORY": repository.upper(),
    }
    shape = spelled(row.shape, words)
    request = {key: shape[key] for key in ("volume_id", "target") if key in shape}
    bench.watch.run(row.expected, **{"reference": reference, **request, **shape.get("attributes", {})})
    bench.watch.check()
    bench.assert_serving()


# -- the corpus itself


def test_corpus_holds_every_row_that_concerns_content() -> None:
    wanted = {f"A{number}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 14, 16, 18, 19, 22, 23, 24)}
    wanted |= {f"B{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 17, 18, 20, 22, 23, 24)}
    wanted |= {
        f"C{number}" for number in (1, 2, 3, 4, 7, 9, 11, 12, 14, 15, 17, 18, 19, 20, 23, 24, 25, 26, 27, 28, 32, 33)
    }
    wanted |= {"F1", "F2", "F13", "F15", "F16", "F18", "F19"}
    rows = [item for file in _FILES for item in load(file)]
    assert {found.id for found in rows} | {item["row"] for item in NAMES} >= wanted
