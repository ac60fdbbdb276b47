"""The life of a writable volume: what is asked before a pod writes, and what becomes of what it wrote."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras import config
from csi_oras.errors import (
    AccessDeniedError,
    InvalidRequestError,
    UnauthenticatedError,
    UnsupportedContentError,
    VolumeBusyError,
    VolumeConflictError,
)
from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Reference
from csi_oras.registry import credentials
from csi_oras.store.volumes import VolumeState
from csi_oras.store.writable import WritableVolume
from csi_oras.telemetry.secrets import Secret
from csi_oras.volume.adopt import shown_plans, shown_quarantined
from tests.support.artifacts import Layer, Pusher, files, manifest, sha256
from tests.support.kinds_archives import image
from tests.support.node import Node
from tests.support.outside import contents
from tests.support.private_registry import PASSWORD, SECRET, USER, private_registry
from tests.support.tars import tar

pytestmark = pytest.mark.needs("root", "registry")
_RULE = config.policy.WriteBackRule(namespaces=(Glob.parse("default"),), references=(Glob.parse("**"),))
_POLICY = replace(config.load(None), write_back=config.policy.WriteBackPolicy(enabled=True, allow=(_RULE,)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    kubelet = tmp_path / "kubelet"
    kubelet.mkdir()
    node = Node(tmp_path / "state", kubelet, _POLICY)
    yield node
    for target in node.mounted():
        subprocess.run(["umount", "-l", target], check=True)
    node.app.close()


@pytest.fixture
def out(pusher: Pusher, repository: str) -> str:
    """Where to push."""
    return f"{pusher.address}/{repository}/out:v1"


@pytest.fixture
def base(pusher: Pusher, repository: str) -> str:
    return pusher.artifact(repository, [*files(kept=b"kept", gone=b"gone"), Layer(content=b"deep", title="a/b")])


def _leases(node: Node, kind: str) -> set[str]:
    held = node.app.leases.held().holders
    return {digest for digest, holders in held.items() if any(holder.startswith(f"{kind} ") for holder in holders)}


def test_volume_over_a_base_is_written_and_captured_with_all_that_a_push_needs(node: Node, base: str, out: str) -> None:
    target = node.publish(node.writing(reference=base, writeBackReference=out, writeBackExclude="*.tmp"))
    assert contents(target) == {"kept": b"kept", "gone": b"gone", "a/b": b"deep"}
    (target / "new").write_bytes(b"new")
    (target / "gone").unlink()
    (target / "a/b").write_bytes(b"changed")
    node.volumes.unpublish("volume", str(target))
    (captured,) = node.captured
    volume = captured.volume()
    assert volume.base
    assert (str(volume.reference), str(volume.base.reference).partition("@")[0]) == (out, base)
    assert (volume.exclude, volume.tag_meant, volume.namespace, volume.pod) == (("*.tmp",), None, "default", "pod")
    assert (captured.upper / "new").read_bytes() == b"new"
    assert (captured.upper / "a/b").read_bytes() == b"changed"
    assert stat.S_ISCHR((captured.upper / "gone").lstat().st_mode)
    assert captured.directory.parent == node.app.paths.root / "outbox"
    assert _leases(node, "outbox") == {str(volume.base.artifact), str(volume.base.plan)}
    assert not _leases(node, "volume")
    assert (node.known(), node.mounted(), target.exists()) == ([], [], False)


def test_volume_without_a_base_starts_empty_and_any_user_may_write(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    assert contents(target) == {}
    subprocess.run(["sh", "-c", "echo hello > x"], check=True, cwd=target, user=65534, group=65534)
    node.volumes.unpublish("volume", str(target))
    assert contents(node.captured[0].upper) == {"x": b"hello\n"}


def test_mount_has_no_set_id_bits_and_no_devices_and_no_execution_if_asked(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out, noexec="true"))
    flags = os.statvfs(target).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOEXEC
    assert not flags & os.ST_RDONLY


def test_publish_again_is_the_same_volume_and_otherwise_a_conflict(node: Node, base: str, out: str) -> None:
    request = node.writing(reference=base, writeBackReference=out)
    target = node.publish(request)
    (target / "new").write_bytes(b"new")
    assert node.volumes.begin(request) is None
    assert len(node.mounted()) == 1
    with pytest.raises(VolumeConflictError):
        node.volumes.begin(node.writing(reference=base, writeBackReference=f"{out}-other"))
    assert (target / "new").read_bytes() == b"new"


def test_tag_is_remembered_as_it_was_at_publish(node: Node, pusher: Pusher, repository: str) -> None:
    out = pusher.artifact(repository, files(x=b"before"))
    before = sha256(manifest(files(x=b"before")))
    target = node.publish(node.writing(writeBackReference=out))
    pusher.artifact(repository, files(x=b"after"))
    node.volumes.unpublish("volume", str(target))
    assert str(node.captured[0].volume().tag_meant) == before


def test_policy_refuses_before_anything_is_asked_or_made(node: Node, base: str, out: str) -> None:
    request = node.writing(reference=base, writeBackReference=out)
    for policy in (config.load(None), replace(_POLICY, write_back=replace(_POLICY.write_back, allow=()))):
        node.app.adopt_policy(policy)
        with pytest.raises(AccessDeniedError, match="writeBack"):
            node.volumes.begin(request)
    node.app.adopt_policy(_POLICY)
    with pytest.raises(AccessDeniedError, match=r"namespace \(none\)"):
        node.volumes.begin(replace(request, owner=None))
    assert (node.known(), node.mounted(), list(node.write_back.live())) == ([], [], [])


def test_credential_that_may_not_push_is_refused_at_publish_and_one_that_may_is_kept(
    node: Node, tmp_path: Path
) -> None:
    with private_registry(tmp_path / "private") as (registry, _):
        out = f"{registry.address}/team/out:v1"
        with pytest.raises(UnauthenticatedError):
            node.publish(node.writing(writeBackReference=out))
        target = node.publish(node.writing(secrets=SECRET, writeBackReference=out))
    node.volumes.unpublish("volume", str(target))
    (captured,) = node.captured
    credential = credentials.from_text(captured.credential())
    assert credential
    assert (credential.username, credential.password.reveal()) == (USER, PASSWORD)
    assert (captured.directory / "credential.json").stat().st_mode & 0o777 == 0o600


def test_single_file_cannot_be_written_back(node: Node, base: str, out: str) -> None:
    with pytest.raises(InvalidRequestError, match="single file"):
        node.publish(node.writing(reference=base, path="kept", writeBackReference=out))
    assert (node.known(), node.mounted(), list(node.write_back.live())) == ([], [], [])


def test_base_with_a_name_that_no_artifact_can_carry_is_refused_unless_it_is_left_out(
    node: Node, pusher: Pusher, repository: str, out: str
) -> None:
    root = [{"name": "var/lib/dpkg/info/libc6:amd64.list"}, {"name": "app/x"}]
    base = image([tar(root)]).push(pusher, repository)
    with pytest.raises(UnsupportedContentError, match=r"libc6:amd64\.list.*a colon") as refusal:
        node.publish(node.writing(reference=base, writeBackReference=out))
    assert refusal.value.message.endswith("leave it out with exclude or writeBackExclude, or name a directory as path")
    for number, part in enumerate(({"exclude": "var"}, {"path": "app"}, {"writeBackExclude": "var/lib"})):
        target = node.publish(node.writing(f"part-{number}", None, reference=base, writeBackReference=out, **part))
        assert "x" in {path.name for path in target.rglob("*")}


def test_volume_that_somebody_still_writes_to_stays(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    with (target / "x").open("wb") as file:
        with pytest.raises(VolumeBusyError, match=f"files open.*fuser -vm {target}"):
            node.volumes.unpublish("volume", str(target))
        file.write(b"to the end")
    assert not node.captured
    node.volumes.unpublish("volume", str(target))
    assert contents(node.captured[0].upper) == {"x": b"to the end"}


def test_mount_below_a_volume_keeps_it_and_is_named(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    (target / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", target / "below"], check=True)
    with pytest.raises(VolumeBusyError, match=f"has something mounted below it: {target}/below; unmount"):
        node.volumes.unpublish("volume", str(target))
    subprocess.run(["umount", target / "below"], check=True)
    node.volumes.unpublish("volume", str(target))
    assert len(node.captured) == 1


def test_another_volume_takes_nothing_away(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    with pytest.raises(VolumeBusyError):
        node.volumes.unpublish("another", str(target))
    assert node.mounted() == [str(target)]


def test_unpublish_goes_on_after_the_unmount(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    (target / "x").write_bytes(b"here")
    subprocess.run(["umount", target], check=True)  # as a driver that was killed then
    node.recovery.reconcile()
    assert node.known() == ["volume"]
    node.volumes.unpublish("volume", str(target))
    node.volumes.unpublish("volume", str(target))
    assert [contents(captured.upper) for captured in node.captured] == [{"x": b"here"}]


def test_unpublish_goes_on_after_the_capture(node: Node, out: str) -> None:
    target = node.publish(node.writing(writeBackReference=out))
    (target / "x").write_bytes(b"here")
    subprocess.run(["umount", target], check=True)
    node.write_back.capture("volume", str(target))  # as a driver that was killed then
    node.volumes.unpublish("volume", str(target))
    assert (len(node.captured), node.known(), target.exists()) == (1, [], False)


def test_volume_that_was_never_mounted_is_not_pushed(node: Node, out: str) -> None:
    target = node.target("volume")
    volume = WritableVolume(
        volume_id="volume", target=str(target), reference=Reference.parse(out), tag_meant=None, base=None
    )
    node.app.writable.make(volume, Secret("{}"))  # as a driver that was killed then
    node.volumes.unpublish("volume", str(target))
    assert (node.captured, list(node.write_back.live())) == ([], [])


def test_volume_goes_on_after_the_node_was_restarted(node: Node, base: str, out: str) -> None:
    request = node.writing(reference=base, writeBackReference=out)
    target = node.publish(request)
    (target / "x").write_bytes(b"here")
    subprocess.run(["umount", target], check=True)
    node.recovery.take_stock()
    node.recovery.adopt()
    node.recovery.reconcile()
    node.publish(request)
    assert (target / "x").read_bytes() == b"here"
    assert not node.captured


def test_volume_with_another_base_begins_anew_and_keeps_what_was_written(
    node: Node, pusher: Pusher, repository: str, base: str, out: str
) -> None:
    request = node.writing(reference=base, writeBackReference=out, pullPolicy="Always")
    target = node.publish(request)
    (target / "x").write_bytes(b"here")
    subprocess.run(["umount", target], check=True)
    pusher.artifact(repository, files(other=b"other"))
    node.publish(request)
    assert contents(target) == {"other": b"other"}
    assert (node.captured[0].upper / "x").read_bytes() == b"here"


def test_volume_whose_pod_went_with_the_node_is_captured(node: Node, base: str, out: str) -> None:
    target = node.publish(node.writing(reference=base, writeBackReference=out))
    (target / "x").write_bytes(b"here")
    subprocess.run(["umount", target], check=True)
    shutil.rmtree(target.parent)
    node.recovery.take_stock()
    node.recovery.adopt()
    node.recovery.reconcile()
    assert [(captured.upper / "x").read_bytes() for captured in node.captured] == [b"here"]
    assert (node.known(), len(_leases(node, "outbox")), _leases(node, "volume")) == ([], 2, set())


def test_lost_database_loses_nothing(node: Node, base: str, out: str) -> None:
    request = node.writing(reference=base, writeBackReference=out)
    target = node.publish(request)
    (target / "x").write_bytes(b"here")
    leases = _leases(node, "volume")
    (record,) = node.records.all()
    node.records.drop(record.volume_id, record.target)
    assert str(record.plan) in shown_plans(node.app.paths.trees)
    node.recovery.take_stock()
    node.recovery.adopt()
    node.recovery.reconcile()
    assert _leases(node, "volume") == leases
    assert node.volumes.begin(request) is None
    assert replace(node.records.all()[0], fingerprint="") == replace(record, reference=base, fingerprint="")
    assert node.records.all()[0].state is VolumeState.PUBLISHED
    node.records.drop(record.volume_id, record.target)
    node.volumes.unpublish("volume", str(target))
    assert [(captured.upper / "x").read_bytes() for captured in node.captured] == [b"here"]


def test_statistics_count_what_is_below_and_what_is_written(node: Node, base: str, out: str) -> None:
    target = node.publish(node.writing(reference=base, writeBackReference=out))
    before = node.volumes.statistics("volume", str(target))
    (target / "x").write_bytes(b"12345")
    (target / "link").symlink_to("/etc/passwd")
    after = node.volumes.statistics("volume", str(target))
    assert (after.size - before.size, after.files - before.files) == (5, 1)


def test_tree_below_a_volume_that_is_quarantined_is_still_shown(node: Node, base: str, out: str) -> None:
    target = node.publish(node.writing(reference=base, writeBackReference=out))
    plan = node.records.all()[0].plan.removeprefix("sha256:")
    name, trees = f"tree-sha256-{plan}-{'0' * 16}", node.app.paths.trees
    (trees / plan).rename(node.app.paths.quarantine / name)
    assert shown_quarantined(trees) == {name: {str(target)}}
    node.volumes.unpublish("volume", str(target))
    assert shown_quarantined(trees) == {}
