"""The chapters of the tour, each a thing that the driver does: why, the call, the result, and a check that it is so."""

import os
import signal
import sys
from pathlib import Path

from csi_oras.demo import distribution
from csi_oras.demo.guide import Guide
from csi_oras.demo.kubelet import Volume
from csi_oras.demo.link import SlowLink
from csi_oras.demo.scene import Scene, expect
from csi_oras.demo.stage import Stage
from csi_oras.telemetry.progress import human_size

_SITE = {
    "README.md": b"# site\nA small artifact: four files in nested directories.\n",
    "config/app.yaml": b"listen: 8080\ngreeting: hello from an artifact\n",
    "config/regions/eu.yaml": b"replicas: 3\n",
    "data/points.csv": b"x,y\n" + b"".join(b"%d,%d\n" % (x, x * x) for x in range(500)),
}
_BIG_BYTES = 32 << 20
_LINK_RATE = 16 << 20
_SHORT_DEADLINE = 3.0
_METRICS = (
    "csi_oras_pull_bytes_total",
    "csi_oras_registry_requests_total",
    "csi_oras_published_volumes",
    "csi_oras_store_artifacts",
)


def show_stage(stage: Stage, guide: Guide) -> None:
    """Start the driver, and say what runs where."""
    guide.settle(stage.directory)
    guide.action(f"{Path(distribution.program() or '').name} serve {stage.directory}/registry/registry.yml")
    guide.result(f"a CNCF distribution registry answers at {stage.registry.address}")
    seconds = stage.start_driver()
    guide.action(" ".join(["csi-oras", *stage.driver_command()[3:]]))
    guide.result(f"the driver, process {stage.driver_pid}, answers at its socket after {seconds:.1f} s")


def introduce(scene: Scene) -> None:
    """Ask who is there."""
    scene.guide.chapter(
        "Who is there?",
        "Before anything else the kubelet asks a driver for its name and its node, and then again and again "
        "whether it is well.",
    )
    for response in scene.kubelet.introduce():
        scene.guide.response(response)


def mount_inline(scene: Scene) -> None:
    """Mount a volume that stands in a pod's own spec."""
    scene.guide.chapter(
        "A volume in a pod's own spec",
        "A pod names an artifact. The driver pulls it once for the node, proves every byte against its digest, "
        "and mounts it read-only.",
    )
    reference = scene.reference("site")
    scene.push(reference, _SITE)
    volume = scene.kubelet.inline("site", pod="reader", reference=reference)
    _publish(scene, volume)
    scene.guide.action("list what the pod sees")
    scene.guide.tree(volume.target)
    text = scene.read(volume, "config/app.yaml")
    expect(text.encode() == _SITE["config/app.yaml"], "the file holds something else than was pushed")
    scene.show_mount(volume)
    scene.refuse_to_write(volume, "config/app.yaml")
    scene.guide.note(
        "Every pod of the node that may read this artifact gets a mount of the same files, and no pod can "
        "change them. Its size is the artifact's own, not that of the node's disk:"
    )
    scene.guide.result(*scene.kubelet.statistics(volume))


def pin_a_claim(scene: Scene) -> None:
    """Show that a claim keeps its bytes when the tag is moved."""
    scene.guide.chapter(
        "A claim shows the same bytes on every node",
        "CreateVolume asks the registry once what the tag means, pulls nothing, and pins the digest in the volume.",
    )
    reference = scene.reference("table")
    digest = scene.push(reference, {"table.csv": b"the first table\n"})
    created = scene.kubelet.create_volume("table", reference=reference)
    pinned = created.volume_context["reference"]
    expect(pinned.endswith(f"@{digest}"), f"the reference was pinned as {pinned}")
    scene.guide.result(f"volume_context.reference: {pinned}")
    scene.guide.note("Now somebody moves the tag, before any node has pulled:")
    moved = scene.push(reference, {"table.csv": b"another table\n"})
    expect(moved != digest, "the tag did not move")
    volume = scene.kubelet.claimed("table", "analyst", created)
    _publish(scene, volume)
    expect(scene.read(volume, "table.csv") == "the first table\n", "the volume shows what the tag means now")
    scene.guide.note("Still the first table. The claim goes, and the volume with it:")
    scene.kubelet.unpublish(volume)
    scene.mounted.remove(volume)
    scene.kubelet.delete_volume(created)
    expect(not volume.target.exists(), f"{volume.target} is still there")
    scene.guide.result("OK; the artifact in the registry is not the driver's to delete")


def refuse_a_hostile_artifact(scene: Scene) -> None:
    """Refuse an artifact that would write outside its volume."""
    scene.guide.chapter(
        "A hostile artifact",
        "A file name in an artifact is whatever its author wrote. This one leads from the driver's store to a "
        "directory that plays the node's /etc/cron.d.",
    )
    canary = scene.stage.directory / "node" / "etc" / "cron.d"
    canary.mkdir(parents=True)
    reference = scene.reference("hostile")
    scene.push(reference, {"README.md": b"harmless\n", "../../../node/etc/cron.d/job": b"* * * * * root id\n"})
    volume = scene.kubelet.inline("hostile", pod="victim", reference=reference)
    scene.refused(lambda: scene.kubelet.publish(volume), "FailedPrecondition", volume.name)
    expect(not volume.target.exists(), f"{volume.target} was left behind")
    scene.forget(volume)
    scene.guide.action(f"list {canary}")
    expect(not any(canary.iterdir()), f"something was written to {canary}")
    scene.guide.result("(empty)")
    scene.guide.note(
        "Names are checked before the first file is fetched, and never repaired: the event is all there is."
    )


def explain_mistakes(scene: Scene) -> None:
    """Show what a pod is told about a bad reference, a missing tag and an unknown attribute."""
    scene.guide.chapter(
        "Mistakes, and what the pod is told",
        "A gRPC message becomes an event on the pod, so it says what is wrong and what to do.",
    )
    mistakes = (
        ("InvalidArgument", {"reference": "ghcr.io/Acme/Model:v1"}),
        ("NotFound", {"reference": scene.reference("site", "v2")}),
        ("InvalidArgument", {"reference": scene.reference("site"), "plattform": "linux/arm64"}),
    )
    for code, attributes in mistakes:
        volume = scene.kubelet.inline("mistake", pod="hasty", **attributes)
        scene.refused(lambda volume=volume: scene.kubelet.publish(volume), code, volume.name)  # type: ignore[misc]
        expect(not volume.target.exists(), f"{volume.target} was left behind")
        scene.forget(volume)


def pull_slowly(scene: Scene) -> None:
    """Let a pull take longer than the call that wanted it."""
    scene.guide.chapter(
        "A pull that takes longer than the call",
        f"The kubelet waits two minutes for a call; a pull may take longer. Here a link of {human_size(_LINK_RATE)}/s "
        f"stands before the registry, and the call has {_SHORT_DEADLINE:.0f} s, of which the driver keeps two for "
        "its answer.",
    )
    scene.push(scene.reference("model"), {"model.bin": os.urandom(_BIG_BYTES)})
    with SlowLink(scene.stage.registry.port, _LINK_RATE) as link:
        scene.guide.action(f"start a link from {link.address} to {scene.stage.registry.address}")
        volume = scene.kubelet.inline("model", pod="server", reference=f"{link.address}/demo/model:v1")
        scene.refused(lambda: scene.kubelet.publish(volume, _SHORT_DEADLINE), "Aborted", volume.name)
        scene.guide.note("Aborted tells the kubelet to ask again. The pull goes on meanwhile, and the retry joins it:")
        _publish(scene, volume)
        carried = link.carried
    expect((volume.target / "model.bin").stat().st_size == _BIG_BYTES, "the file has another size")
    expect(_BIG_BYTES <= carried < _BIG_BYTES * 1.1, f"the link carried {carried} bytes")
    scene.guide.note(f"For {human_size(_BIG_BYTES)} the link carried {human_size(carried)} in all: nothing came twice.")


def show_metrics(scene: Scene) -> None:
    """Show some of what Prometheus gets."""
    scene.guide.chapter(
        "What the driver says of itself",
        "Calls are counted under the names that the Kubernetes sidecars use, so existing dashboards fit.",
    )
    scene.guide.action(f"GET http://127.0.0.1:{scene.stage.metrics_port}/healthz")
    scene.guide.result(scene.fetch("/healthz").strip())
    scene.guide.action(f"GET http://127.0.0.1:{scene.stage.metrics_port}/metrics  (a few of its lines)")
    lines = [line for line in scene.fetch("/metrics").splitlines() if _is_shown(line)]
    expect(len(lines) > len(_METRICS), f"/metrics has only {lines}")
    scene.guide.result(*lines)


def _is_shown(line: str) -> bool:
    publishes = line.startswith("csi_plugin_operations_seconds_count") and "NodePublishVolume" in line
    return publishes or line.startswith(_METRICS)


def survive_a_kill(scene: Scene) -> None:
    """Kill the driver under its volumes, and start it again."""
    scene.guide.chapter(
        "The driver is killed",
        "A volume is a mount that the kernel keeps; no daemon stands between a pod and its files.",
    )
    volume = scene.mounted[0]
    scene.kubelet.close()
    scene.guide.action(f"kill -{int(signal.SIGKILL)} {scene.stage.driver_pid}")
    scene.stage.kill_driver()
    scene.guide.result("the driver is gone")
    scene.read(volume, "config/regions/eu.yaml")
    scene.guide.action("start the driver again")
    seconds = scene.stage.start_driver()
    scene.kubelet.connect()
    scene.guide.result(f"process {scene.stage.driver_pid} answers after {seconds:.1f} s")
    scene.guide.note("A kubelet that restarts asks for every volume again. The driver knows it and does nothing:")
    scene.kubelet.publish(volume)
    scene.guide.result("OK")
    scene.show_mount(volume)


def wait_for_enter(scene: Scene) -> None:
    """Leave time to look around."""
    stage, guide = scene.stage, scene.guide
    guide.chapter("Everything is still there", "Look around from another terminal:")
    guide.settle(stage.directory)
    command = f"{sys.executable} -m csi_oras"
    guide.result(
        *(f"ls -lR {volume.target}" for volume in scene.mounted),
        f"{command} store ls --state-dir {stage.state}",
        f"{command} inspect {scene.reference('site')} --state-dir {stage.state}",
        f"curl http://127.0.0.1:{stage.metrics_port}/metrics",
        f"curl http://{stage.registry.address}/v2/_catalog",
        f"less {stage.log}",
    )
    guide.note("Press Enter to go on.")
    try:
        input()
    except EOFError:
        guide.note("There is nobody to press it: standard input is at its end.")


def take_away(scene: Scene) -> None:
    """Unpublish what is mounted."""
    scene.guide.chapter(
        "Everything is taken away",
        "Unpublish unmounts, removes the target and forgets the volume. Of one that is gone already it is "
        "a success, too, for the kubelet asks until it hears OK.",
    )
    for volume in scene.mounted:
        scene.kubelet.unpublish(volume)
        expect(not volume.target.exists(), f"{volume.target} is still there")
        scene.guide.result("OK, unmounted and removed")
    scene.kubelet.unpublish(scene.mounted[0])
    scene.guide.result("OK, though it was gone already")
    expect(scene.stage.mounts() == [], f"still mounted: {scene.stage.mounts()}")
    scene.mounted.clear()


def say_goodbye(stage: Stage, guide: Guide, seconds: float) -> None:
    """Tell what was looked for after the end, and not found."""
    guide.action("stop the driver and the registry, remove the directory, and look what is left")
    guide.result(
        f"mounts below $DEMO: {len(stage.mounts())}",
        f"processes on $DEMO: {len(stage.processes())}",
        f"$DEMO: {'still there' if stage.directory.exists() else 'removed'}",
    )
    guide.note(f"That took {seconds:.0f} s. README.md tells how to install the driver in a cluster.")


def _publish(scene: Scene, volume: Volume) -> None:
    scene.mounted.append(volume)
    scene.kubelet.publish(volume)
    scene.guide.result("OK")
