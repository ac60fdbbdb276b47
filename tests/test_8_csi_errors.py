"""The design's table of errors, each row through the socket: code, message, and nothing left behind."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from csi_oras.csi.pb import csi_pb2
from tests.support.artifacts import OCI_INDEX, Layer, files, manifest, sha256
from tests.support.calls import refused
from tests.support.driver import SINGLE_NODE_WRITER, Driver, mount_capability
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import body, header, raw
from tests.support.fake_server import status as answers
from tests.support.planted import planted
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root")
pytest_plugins = ["tests.support.fake_fixtures", "tests.support.shared"]
Code = grpc.StatusCode
_ESCAPES = "\x1b[2J\u202ereversed\u200b"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cause: how it is made, what the volume asks for, and what it must get."""

    name: str
    code: grpc.StatusCode
    words: tuple[str, ...] = ()
    prepare: Callable[[FakeRegistry], object] = lambda _fake: None
    layers: tuple[Layer, ...] = tuple(files(x=b"content"))
    attributes: dict[str, str] = field(default_factory=dict)
    publish: dict[str, Any] = field(default_factory=dict)
    tag: str = "v1"

    def __str__(self) -> str:
        return self.name


def _block() -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(
        block=csi_pb2.VolumeCapability.BlockVolume(),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=SINGLE_NODE_WRITER),
    )


def _titled(title: str) -> tuple[Layer, ...]:
    return (Layer(content=b"x", title=title),)


def _attestation_index(fake: FakeRegistry) -> None:
    held = manifest(files(x=b"x"))
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha256(held),
        "size": len(held),
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    fake.manifest("team/model", "v1", index, OCI_INDEX)


_UNAUTHORIZED = json.dumps({"errors": [{"code": "DENIED", "message": _ESCAPES}]}).encode()

ROWS = [
    # bad attribute, reference, name, capability, path
    Row(name="unknown attribute", code=Code.INVALID_ARGUMENT, words=("nope", "pullPolicy"), attributes={"nope": "1"}),
    Row(name="bad value", code=Code.INVALID_ARGUMENT, words=("noexec",), attributes={"noexec": _ESCAPES}),
    Row(name="bad tag", code=Code.INVALID_ARGUMENT, tag=f"v1{_ESCAPES}"),
    Row(name="block volume", code=Code.INVALID_ARGUMENT, words=("block",), publish={"capability": _block()}),
    Row(
        name="writable access mode",
        code=Code.INVALID_ARGUMENT,
        words=("MULTI_NODE_MULTI_WRITER", "shared"),
        publish={"capability": mount_capability(csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)},
    ),
    Row(
        name="mount flag",
        code=Code.INVALID_ARGUMENT,
        words=("suid", "nosuid"),
        publish={"capability": mount_capability(flags=("suid",))},
    ),
    Row(name="selection of nothing", code=Code.INVALID_ARGUMENT, attributes={"include": "absent"}),
    Row(name="map too large", code=Code.INVALID_ARGUMENT, words=("4096",), attributes={"include": "x" * 4090}),
    # artifact or tag not there
    Row(name="absent tag", code=Code.NOT_FOUND, words=("check the reference",), tag="absent"),
    Row(name="absent blob", code=Code.NOT_FOUND, words=("layer 0 (x)",), prepare=lambda fake: fake.blobs.clear()),
    Row(name="absent and Never", code=Code.NOT_FOUND, words=("IfNotPresent",), attributes={"pullPolicy": "Never"}),
    # no or wrong credentials
    Row(
        name="no credential",
        code=Code.UNAUTHENTICATED,
        words=("nodePublishSecretRef",),
        prepare=lambda fake: fake.require_basic("alice", "correct"),
    ),
    Row(
        name="wrong credential",
        code=Code.UNAUTHENTICATED,
        words=("the volume's secret",),
        prepare=lambda fake: fake.require_basic("alice", "correct"),
        publish={"secrets": {"username": "alice", "password": planted("wrong")}},
    ),
    Row(
        name="no token",
        code=Code.UNAUTHENTICATED,
        words=("anonymous token",),
        prepare=lambda fake: fake.require_tokens(alice="secret"),
    ),
    Row(
        name="secret without a credential", code=Code.UNAUTHENTICATED, publish={"secrets": {"token": planted("token")}}
    ),
    Row(
        name="secret that is no docker config",
        code=Code.UNAUTHENTICATED,
        words=("dockerconfigjson",),
        publish={"secrets": {".dockerconfigjson": f"{{{planted('config')}"}},
    ),
    # not allowed, policy
    Row(
        name="forbidden",
        code=Code.PERMISSION_DENIED,
        words=("anonymous",),
        prepare=lambda fake: fake.bend("/manifests/", answers(403, _UNAUTHORIZED)),
    ),
    # hostile or unsupported content, limits
    Row(
        name="name that climbs", code=Code.FAILED_PRECONDITION, words=("layer 0", "../"), layers=_titled("../../etc/x")
    ),
    Row(name="absolute name", code=Code.FAILED_PRECONDITION, words=("absolute",), layers=_titled("/etc/passwd")),
    Row(name="name of escapes", code=Code.FAILED_PRECONDITION, layers=_titled(f"a{_ESCAPES}b")),
    Row(
        name="file and directory of one name",
        code=Code.FAILED_PRECONDITION,
        words=("layers 0 and 1",),
        layers=(Layer(content=b"1", title="a"), Layer(content=b"2", title="a/b")),
    ),
    Row(
        name="packed directory that is no archive",
        code=Code.FAILED_PRECONDITION,
        words=("layer 0",),
        layers=(Layer(content=b"x", title="d", annotations={"io.deis.oras.content.unpack": "true"}),),
    ),
    Row(
        name="manifest that is HTML",
        code=Code.FAILED_PRECONDITION,
        prepare=lambda fake: fake.bend("/manifests/", answers(200, b"<html>Sign in</html>", Content_Type="text/html")),
    ),
    Row(
        name="manifest whose layer has no number as size",
        code=Code.FAILED_PRECONDITION,
        layers=(Layer(content=b"x", title="x", claims={"size": "1"}),),
    ),
    Row(name="index of attestations only", code=Code.FAILED_PRECONDITION, prepare=_attestation_index),
    Row(
        name="manifest too large",
        code=Code.FAILED_PRECONDITION,
        prepare=lambda fake: fake.bend("/manifests/", body(b" " * (5 << 20))),
    ),
    Row(
        name="blob that comes encoded",
        code=Code.FAILED_PRECONDITION,
        words=("layer 0 (x)",),
        prepare=lambda fake: fake.bend("/blobs/", header(Content_Encoding="gzip")),
    ),
    Row(
        name="registry that says no to everything",
        code=Code.FAILED_PRECONDITION,
        words=("418",),
        prepare=lambda fake: fake.bend("/manifests/", answers(418)),
    ),
    # digest or size differs
    Row(
        name="wrong bytes",
        code=Code.DATA_LOSS,
        words=("layer 0 (x)",),
        prepare=lambda fake: fake.bend("/blobs/", body(b"CONTENT")),
    ),
    Row(name="wrong size", code=Code.DATA_LOSS, layers=(Layer(content=b"x", title="x", claims={"size": 2}),)),
    # registry unreachable, 5xx, rate limited
    Row(name="server error", code=Code.UNAVAILABLE, prepare=lambda fake: fake.bend("/manifests/", answers(503))),
    Row(name="rate limit", code=Code.UNAVAILABLE, prepare=lambda fake: fake.bend("/manifests/", answers(429))),
    Row(name="blob server error", code=Code.UNAVAILABLE, prepare=lambda fake: fake.bend("/blobs/", answers(500))),
    Row(
        name="no HTTP at all", code=Code.UNAVAILABLE, prepare=lambda fake: fake.bend("/manifests/", raw(b"SSH-2.0-x\n"))
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_refusal_has_its_code_a_sentence_for_people_and_leaves_nothing(
    shared_driver: Driver, volume: Volume, fake: FakeRegistry, row: Row
) -> None:
    fake.artifact("team/model", row.layers)
    row.prepare(fake)
    reference = f"{fake.address}/team/model:{row.tag}"
    named = () if row.code is Code.INVALID_ARGUMENT else (reference,)
    with refused(row.code, *named, *row.words) as refusal:
        volume.publish(reference=reference, **row.attributes, **row.publish)
    assert "planted" not in refusal.message
    assert volume.is_gone()
    assert left_behind(shared_driver, volume) == []


def left_behind(driver: Driver, volume: Volume) -> list[str]:
    """What a refused publish may not leave: bytes of a blob, staging, or a record."""
    with sqlite3.connect(driver.state / "state.db") as database:
        rows = database.execute("SELECT volume_id FROM volumes WHERE volume_id = ?", (volume.volume_id,)).fetchall()
    database.close()
    found = [*(driver.state / "ingest").iterdir(), *(driver.state / "staging").iterdir()]
    return [*map(str, found), *(row[0] for row in rows)]


def test_wrong_manifest_of_a_digest_is_data_loss(volume: Volume, fake: FakeRegistry) -> None:
    fake.artifact("team/model", files(x=b"content"))
    digest = sha256(manifest(files(x=b"content")))
    fake.bend("/manifests/", body(manifest(files(x=b"another"))))
    with refused(Code.DATA_LOSS, f"{fake.address}/team/model@{digest}"):
        volume.publish(reference=f"{fake.address}/team/model@{digest}")
    assert volume.is_gone()


def test_registry_that_nobody_runs_is_unavailable(volume: Volume) -> None:
    with FakeRegistry() as gone:
        reference = f"{gone.address}/team/model:v1"
    with refused(Code.UNAVAILABLE, reference):
        volume.publish(reference=reference)
    assert volume.is_gone()


def test_repository_that_policy_denies_is_permission_denied(short_path: Path, fake: FakeRegistry) -> None:
    policy = short_path / "policy.yaml"
    policy.write_text(
        'registries: {allow: ["**"], deny: ["127.0.0.1:*/secret/**"]}\nlimits: {artifactBytes: 100, files: 2}\n'
    )
    denied = fake.artifact("secret/model", files(x=b"x"))
    large = fake.artifact("team/large", files(x=bytes(101)))
    many = fake.artifact("team/many", files(a=b"1", b=b"2", c=b"3"))
    with Driver(short_path, "--config", str(policy)) as driver:
        target = driver.target()
        with refused(Code.PERMISSION_DENIED, denied.rpartition(":")[0], "registries.deny"):
            driver.publish(target, reference=denied)
        assert fake.count("secret") == 0
        with refused(Code.FAILED_PRECONDITION, large, "node policy allows 100 B"):
            driver.publish(target, reference=large)
        with refused(Code.FAILED_PRECONDITION, many, "3 files, node policy allows 2"):
            driver.publish(target, reference=many)
        assert fake.count("/blobs/") == 0
        driver.publish(target, reference=many, include="a,b")
        driver.unpublish(target)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"volume_id": ""}, "volume_id"),
        ({"volume_id": "x" * 129}, "volume_id"),
        ({"volume_id": "a\x07b"}, "volume_id"),
        ({"target_path": ""}, "target_path"),
        ({"target_path": "/tmp/outside"}, "not below the kubelet directory"),  # noqa: S108 (it is refused)
        ({"target_path": "{}/../outside"}, "path"),
        ({"target_path": "{}/absent-parent/mount"}, "no parent directory"),
        ({"volume_capability": None}, "volume_capability"),
    ],
    ids=str,
)
def test_field_that_is_missing_or_bad_is_invalid_argument(
    shared_driver: Driver, volume: Volume, changes: dict[str, Any], word: str
) -> None:
    fields: dict[str, Any] = {
        "volume_id": volume.volume_id,
        "target_path": str(volume.target),
        "volume_capability": mount_capability(),
        "volume_context": {"reference": "reg.example/a:v1"},
        **changes,
    }
    fields["target_path"] = fields["target_path"].format(shared_driver.kubelet)
    with refused(Code.INVALID_ARGUMENT, word):
        shared_driver.node.NodePublishVolume(csi_pb2.NodePublishVolumeRequest(**fields), timeout=10)


def test_target_that_is_a_link_is_refused_and_what_it_names_is_untouched(
    volume: Volume, fake: FakeRegistry, tmp_path: Path
) -> None:
    reference = fake.artifact("team/model", files(x=b"x"))
    volume.target.symlink_to(tmp_path)
    with refused(Code.INVALID_ARGUMENT, "symbolic link"):
        volume.publish(reference=reference)
    assert list(tmp_path.iterdir()) == []
    volume.target.unlink()
    volume.target.write_text("a file in the way")
    with refused(Code.INVALID_ARGUMENT, "is a file"):
        volume.publish(reference=reference)
    assert volume.target.read_text() == "a file in the way"
    volume.target.unlink()
