"""Contenders: everybody's way to do the same work, each in a fresh place and timed from outside."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.figures import Figure, Kind
from benchmarks.workbench import Artifact, Workbench
from tests.support.driver import Driver

_SHORTEST_PAUSE = 0.5
"""What the kubelet waits before it asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to do a piece of work: `run` does it below a fresh directory and returns the seconds it took."""

    who: str
    kind: Kind
    run: Callable[[Path], float]
    note: str = ""


def interleaved(bench: Workbench, contenders: Sequence[Contender], rounds: int) -> list[Figure]:
    """Let all run in turn, `rounds` times, each round beginning with another one; who fails takes for ever."""
    seconds: dict[str, list[float]] = {contender.who: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            with bench.fresh() as place:
                took = _timed(contender, place)
            say(f"  round {number + 1}: {contender.who}: {took:.3f} s")
            seconds[contender.who].append(took)
    return [
        Figure(
            who=contender.who,
            kind=contender.kind,
            unit="s",
            samples=tuple(seconds[contender.who]),
            note=contender.note,
        )
        for contender in contenders
    ]


def _timed(contender: Contender, place: Path) -> float:
    try:
        return contender.run(place)
    except (RuntimeError, grpc.RpcError) as error:
        say(f"  {contender.who} failed: {error}")
        return math.inf


def process(*words: str, least: int) -> Callable[[Path], float]:
    """Run a command, `{}` in it being the fresh directory, that must leave at least so many bytes there."""

    def run(place: Path) -> float:
        environment = {**os.environ, "HOME": str(place), "TMPDIR": str(place)}
        started = time.monotonic()
        command([part.replace("{}", str(place)) for part in words], environment, Path.cwd())
        took = time.monotonic() - started
        check(place, least, words[0])
        return took

    return run


def command(words: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
    """Run a command in a directory, to its end.

    Raises:
        RuntimeError: it failed; what it has said.
    """
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=directory,
    ) as peer:
        try:
            output, _ = peer.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                peer.kill()
            raise
    if peer.returncode:
        raise RuntimeError(f"{words[0]} failed: {output.decode(errors='replace')[-1000:]}")


def check(place: Path, least: int, who: str) -> None:
    """A contender that did nothing is not the fastest."""
    inodes = {status.st_ino: status.st_size for status in (path.lstat() for path in place.rglob("*"))}
    if sum(inodes.values()) < least:
        raise RuntimeError(f"{who} left {sum(inodes.values())} bytes of {least}")


def our_pull(artifact: Artifact) -> Contender:
    """`csi-oras pull` as a whole process."""
    command = [sys.executable, "-m", "csi_oras", "pull", "--state-dir", "{}/state", artifact.reference]
    run = process(*command, least=artifact.kept)
    return Contender(who="csi-oras pull", kind=Kind.OURS, run=run, note="whole process, verified, fsync counted")


def our_publish(artifact: Artifact) -> Contender:
    """NodePublishVolume of a driver that runs already and has an empty store."""

    def run(place: Path) -> float:
        with Driver(place) as driver:
            target = driver.target()
            started = time.monotonic()
            publish(driver, target, artifact.reference)
            took = time.monotonic() - started
            driver.unpublish(target)
            check(place, artifact.kept, "csi-oras publish")
        return took

    return Contender(who="csi-oras publish", kind=Kind.OURS, run=run, note="running driver, mounted, fsync counted")


def publish(driver: Driver, target: Path, reference: str, volume_id: str = "volume-1") -> None:
    """Publish as the kubelet does: again and again while the pull goes on."""
    while True:
        try:
            return driver.publish(target, volume_id=volume_id, reference=reference, timeout=120)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
        time.sleep(_SHORTEST_PAUSE)


def say(text: str) -> None:
    """Tell whoever watches."""
    print(text, file=sys.stderr, flush=True)  # the table alone goes to standard output
