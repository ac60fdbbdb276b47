"""The tour of `csi-oras demo`: what it needs, how it ends, and what it must never leave behind."""

import os
import sys
import time
from contextlib import suppress

from csi_oras.demo import chapters, distribution
from csi_oras.demo.guide import Guide
from csi_oras.demo.interrupts import Interrupts
from csi_oras.demo.kubelet import Kubelet, RefusedError
from csi_oras.demo.publisher import Publisher
from csi_oras.demo.scene import Scene, SurpriseError
from csi_oras.demo.stage import Stage
from csi_oras.errors import CsiOrasError


def run(*, keep: bool) -> int:
    """Take the tour and return the exit code; with `keep` wait for Enter before everything is taken away."""
    missing = _missing()
    if missing:
        _complain(missing)
        return 1
    interrupts, guide, started = Interrupts(), Guide(), time.monotonic()
    stage = Stage(interrupts)
    with interrupts.installed():
        try:
            code = _play(stage, guide, interrupts, keep=keep)
        finally:
            stage.tear_down()
        left = stage.left_behind()
    if left:
        _complain(f"left behind: {', '.join(left)}")
        return 1
    if interrupts.received:
        _complain("interrupted; everything is stopped, unmounted and removed")
        return interrupts.exit_code
    if code == 0:
        chapters.say_goodbye(stage, guide, time.monotonic() - started)
    return code


def _missing() -> str:
    """Return what the tour cannot do without, and how to get it."""
    if os.geteuid() != 0:
        return "the tour mounts volumes, and mounts need root: run it with sudo"
    if distribution.program() is None:
        return "docker-registry is not installed, and the tour needs a registry: apt-get install docker-registry"
    return ""


def _play(stage: Stage, guide: Guide, interrupts: Interrupts, *, keep: bool) -> int:
    with suppress(KeyboardInterrupt), interrupts.raising():
        try:
            _tell(stage, guide, interrupts, keep=keep)
        except (CsiOrasError, RefusedError, SurpriseError) as error:
            _complain("\n".join([f"the tour ends here: {error}", *stage.last_words()]))
            return 1
    return 0


def _tell(stage: Stage, guide: Guide, interrupts: Interrupts, *, keep: bool) -> None:
    story = [
        chapters.introduce,
        chapters.mount_inline,
        chapters.pin_a_claim,
        chapters.refuse_a_hostile_artifact,
        chapters.explain_mistakes,
        chapters.pull_slowly,
        chapters.show_metrics,
        chapters.survive_a_kill,
        *([chapters.wait_for_enter] if keep else []),
        chapters.take_away,
    ]
    guide.title(
        "csi-oras: a tour",
        "A registry, a driver and mounts, all of them real; only the kubelet is played, by the gRPC calls that it "
        "makes. Everything is below one temporary directory and goes with it at the end.",
    )
    stage.set_up()
    chapters.show_stage(stage, guide)
    kubelet = Kubelet(stage.socket, stage.kubelet, guide.call)
    scene = Scene(stage=stage, guide=guide, kubelet=kubelet, publisher=Publisher(stage.directory / "workshop"))
    try:
        for chapter in story:
            interrupts.check()
            chapter(scene)
    finally:
        kubelet.close()


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"csi-oras demo: {text}\n")
