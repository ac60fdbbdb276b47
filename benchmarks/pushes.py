"""Pushes of what was written: everybody's way to have the same files in an empty registry, under a tag.

Each run has a registry of its own, since whoever comes second to one finds the blobs there. Files are written and
synced before the clock starts; it stops when the tag means what was written.
"""

import http.client
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, command
from benchmarks.content import Sample
from benchmarks.figures import Kind
from csi_oras.demo.distribution import Distribution
from tests.support.driver import Driver, pod_context

_KUBELET_SECONDS = 120.0
_POLICY = "writeBack: {enabled: true, allow: [{namespaces: [default], references: ['**']}]}\n"
_PER_DIRECTORY = 100
_BLOCK_BYTES = 4 << 20
_LEAST_SHARE = 4
"""Files compress to half of their size, and never to so little of it."""
_LOOK_SECONDS = 0.01
_PATIENCE_SECONDS = 900.0
_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`count` files of `size` bytes, a hundred to a directory, and those of them that a second version has anew."""

    count: int
    size: int
    changed: range = range(0)
    is_packed: bool = False
    """Whether they may come in archives; else who packs them does less than the work."""

    @property
    def total(self) -> int:
        """What they hold."""
        return self.count * self.size

    @property
    def is_large(self) -> bool:
        """Whether it is one file."""
        return self.count == 1

    def __str__(self) -> str:
        """How much it is."""
        if self.is_large:
            return f"one file of {self.size >> 20} MiB"
        return f"{self.count:,} files of {self.size >> 10} KiB"

    def write(self, directory: Path) -> None:
        """Write the first version, and have it on disk."""
        self._write(directory, range(self.count), 0)

    def change(self, directory: Path) -> None:
        """Make the second version of the first, and have it on disk."""
        self._write(directory, self.changed, 1)

    def _write(self, directory: Path, numbers: range, generation: int) -> None:
        for number in numbers:
            name = "large.bin" if self.is_large else f"part-{number // _PER_DIRECTORY:02}/file-{number:05}.dat"
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(self._content(number, generation))
        os.sync()

    def _content(self, number: int, generation: int) -> Iterator[bytes]:
        if not self.is_large:
            yield Sample(number, self.size, generation).content()
            return
        block = bytearray(random.Random(generation).randbytes(_BLOCK_BYTES))  # noqa: S311 (noise, the same each time)
        for position in range(0, self.size, _BLOCK_BYTES):
            block[:8] = position.to_bytes(8)
            yield bytes(block[: self.size - position])


def contenders(work: Work, present: set[str], *, again: bool = False) -> list[Contender]:
    """Return everybody's way; `again` is the second version, of which the first has been pushed in the same way."""
    return [_ours(work, again=again), *_oras(work, present, again=again), *_crane(work, present, again=again)]


def _ours(work: Work, *, again: bool) -> Contender:
    """What a pod has written: from the call that ends its volume."""

    def run(place: Path) -> float:
        with Distribution(place / "registry") as registry, writer(place) as driver:
            reference = reference_at(registry)
            publish(driver, reference)
            work.write(driver.target())
            took = unpublish(driver, registry, work.total)
            if again:
                publish(driver, reference, reference=reference)
                work.change(driver.target())
                took = unpublish(driver, registry, work.total)
            return took

    return Contender(who="csi-oras unpublish", kind=Kind.OURS, run=run, note="running driver, fsync counted")


def _oras(work: Work, present: set[str], *, again: bool) -> list[Contender]:
    if "oras" not in present:
        return []
    push = 'oras push --plain-http --no-tty "$REFERENCE"'
    if work.is_large:
        return [_peer("oras push", f"{push} large.bin", work, again=again)]
    return [
        _peer("oras push, files", f"{push} */*", work, again=again, note="each file a layer"),
        _peer("oras push, directories", f"{push} *", work, again=again, kind=_packing(work), note="each packed"),
    ]


def _crane(work: Work, present: set[str], *, again: bool) -> list[Contender]:
    if "crane" not in present:
        return []
    append = 'crane append --insecure --new_tag "$REFERENCE" --new_layer'
    script = f"tar --sort=name --create * | {append} /dev/stdin"
    return [
        _peer("tar into crane append", script, work, again=again, kind=_packing(work), note="all in one archive"),
        _peer(
            "crane append", f"{append} ../written.tar", work, again=again,
            before="tar --sort=name --create --file ../written.tar *", kind=Kind.LIMIT, note="its tar is there before",
        ),
    ]  # fmt: skip


def _packing(work: Work) -> Kind:
    return Kind.PEER if work.is_packed or work.is_large else Kind.LIMIT


def _peer(
    who: str, script: str, work: Work, *, again: bool, before: str = "true", kind: Kind = Kind.PEER, note: str = ""
) -> Contender:
    def run(place: Path) -> float:
        directory = place / "files"
        with Distribution(place / "registry") as registry:
            environment = {**os.environ, "HOME": str(place), "TMPDIR": str(place), "REFERENCE": reference_at(registry)}

            def push() -> float:
                command(["sh", "-c", before], environment, directory)
                os.sync()
                started = time.monotonic()
                command(["sh", "-c", script], environment, directory)
                took = time.monotonic() - started
                check(registry, work.total)
                return took

            work.write(directory)
            took = push()
            if again:
                work.change(directory)
                took = push()
            return took

    return Contender(who=who, kind=kind, run=run, note=note)


@contextmanager
def writer(place: Path) -> Iterator[Driver]:
    """Run a driver that lets pods write, with an empty store."""
    directory = place / "node"
    directory.mkdir()
    policy = directory / "policy.yaml"
    policy.write_text(_POLICY)
    with Driver(directory, "--config", str(policy)) as driver:
        yield driver


def reference_at(registry: Distribution) -> str:
    """Return where everybody pushes to."""
    return f"{registry.address}/bench:v1"


def publish(driver: Driver, write_back: str, **attributes: str) -> None:
    """Publish a volume to be written to, above what `reference` names or from nothing."""
    context: dict[str, Any] = {**pod_context(), "writeBackReference": write_back, **attributes}
    driver.publish(driver.target(), readonly=False, timeout=_KUBELET_SECONDS, **context)


def unpublish(driver: Driver, registry: Distribution, written: int) -> float:
    """Unpublish it, and return the seconds until its tag means what was written."""
    before = manifest(registry)
    started = time.monotonic()
    driver.unpublish(driver.target(), timeout=_KUBELET_SECONDS)
    while manifest(registry) == before:
        if time.monotonic() - started > _PATIENCE_SECONDS:
            raise RuntimeError("what was written is not pushed")
        time.sleep(_LOOK_SECONDS)
    took = time.monotonic() - started
    check(registry, written)
    return took


def check(registry: Distribution, written: int) -> None:
    """A contender that did nothing is not the fastest."""
    size = sum(layer["size"] for layer in manifest(registry)["layers"])
    if size < written // _LEAST_SHARE:
        raise RuntimeError(f"pushed {size} bytes of {written}")


def manifest(registry: Distribution) -> dict[str, Any]:
    """Return what the tag means, or nothing where there is none."""
    connection = http.client.HTTPConnection(registry.address, timeout=60)
    try:
        connection.request("GET", "/v2/bench/manifests/v1", headers={"Accept": _ACCEPT})
        answer = connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        return document if answer.status == 200 else {}
    finally:
        connection.close()
