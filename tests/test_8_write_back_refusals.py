"""What would stop a push is said when the volume is published, by a code and in words, and nothing is left of it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from grpc import StatusCode

from tests.support.artifacts import Pusher, files
from tests.support.calls import refused
from tests.support.driver import Driver, mount_capability, pod_context
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import status
from tests.support.outside import contents
from tests.support.private_registry import PASSWORD, SECRET, USER, private_registry
from tests.support.token_registry import token_registry

pytest_plugins = ["tests.support.fake_fixtures"]
pytestmark = pytest.mark.needs("root", "registry")
_POLICY = """
registries: {deny: ["**/forbidden"]}
writeBack: {enabled: true, allow: [{namespaces: [default, "team-*"], references: ["*/t/**", "*/team/out:v*"]}]}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Driver]:
    directory = Path(tempfile.mkdtemp(prefix="co-"))
    (directory / "policy.yaml").write_text(_POLICY)
    with Driver(directory, "--config", str(directory / "policy.yaml")) as running:
        yield running
    rmtree(directory, ignore_errors=True)


@pytest.fixture
def base(pusher: Pusher, repository: str) -> str:
    return pusher.artifact(repository, files(x=b"below"))


def publish(node: Driver, namespace: str = "default", **options: Any) -> Path:
    target = node.target()
    node.publish(target, **{"readonly": False, **pod_context(namespace=namespace), **options})
    return target


@contextmanager
def nothing_left(node: Driver, code: StatusCode, *words: str) -> Iterator[None]:
    """Expect a refusal, after which there is no trace of the volume."""
    with refused(code, *words):
        yield
    assert node.mounts() == []
    assert not node.target().exists()
    assert [list((node.state / name).iterdir()) for name in ("volumes", "outbox")] == [[], []]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"writeBackReference": f"{{}}/t/out@sha256:{'0' * 64}"}, ["names a digest", "name a tag"]),
        ({"writeBackReference": "{}/t/OUT:v1"}, ["t/OUT:v1"]),
        ({"writeBackReference": "{}/t/out:${pod.metadata.name"}, ["${pod.metadata.name"]),
        ({"writeBackReference": "{}/t/out:${pod.metadata.labels}"}, ["pod.metadata.labels"]),
        ({"writeBackInclude": "a"}, ["writeBackReference", "is missing"]),
        ({"writeBackReference": "{}/t/out", "writeBackExclude": ",".join(["a"] * 101)}, ["writeBackExclude", "100"]),
        ({"writeBackReference": "{}/t/out", "writeBackInclude": "a" * 4200}, ["is larger than 4096 bytes"]),
        ({"writeBackReference": "{}/t/out", "metadata": "true"}, ["attribute metadata", "leave it out"]),
        ({"writeBackReference": "{}/t/out", "path": "x"}, ["is a single file", "name a directory as path"]),
        ({"writeBackReference": "{}/t/out", "path": "y"}, ['path "y" is not in the artifact']),
        ({"writeBackReference": "{}/t/out", "mode": "lazy"}, ["lazy"]),
    ],
    ids=["digest", "name", "open template", "unknown template", "no reference", "too many globs", "too long",
         "metadata", "single file", "no such path", "lazy"],
)  # fmt: skip
def test_wrong_attribute_is_refused(
    node: Driver, pusher: Pusher, base: str, attributes: dict[str, str], words: list[str]
) -> None:
    wanted = {key: value.replace("{}", pusher.address) for key, value in attributes.items()}
    with nothing_left(node, StatusCode.INVALID_ARGUMENT, *words):
        publish(node, reference=base, **wanted)


@pytest.mark.parametrize(
    ("namespace", "name", "words"),
    [
        ("other", "t/out:v1", ["namespace other", "writeBack.allow"]),
        ("default", "elsewhere/out:v1", ["namespace default", "writeBack.allow"]),
        ("team-a", "team/out:latest", ["namespace team-a", "writeBack.allow"]),
        ("default", "t/forbidden:v1", ["t/forbidden"]),
    ],
)
def test_what_node_policy_does_not_allow_is_refused(  # noqa: PLR0917 (each is a parameter of the table)
    node: Driver, pusher: Pusher, base: str, namespace: str, name: str, words: list[str]
) -> None:
    with nothing_left(node, StatusCode.PERMISSION_DENIED, pusher.address, *words):
        publish(node, namespace, reference=base, writeBackReference=f"{pusher.address}/{name}")


def test_volume_that_no_pod_owns_is_refused(node: Driver, pusher: Pusher, base: str) -> None:
    with nothing_left(node, StatusCode.PERMISSION_DENIED, "namespace (none)"):
        node.publish(node.target(), readonly=False, reference=base, writeBackReference=f"{pusher.address}/t/out:v1")


@pytest.mark.parametrize(
    "how", [{"readonly": True}, {"capability": mount_capability(flags=("ro",))}], ids=["field", "flag"]
)
def test_read_only_volume_writes_nothing_back_and_needs_an_artifact(
    node: Driver, pusher: Pusher, base: str, how: dict[str, Any]
) -> None:
    out = f"{pusher.address}/elsewhere/out:v1"  # where nobody may push
    target = publish(node, reference=base, writeBackReference=out, **how)
    assert contents(target) == {"x": b"below"}
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_bytes(b"")
    node.unpublish(target)
    with nothing_left(node, StatusCode.INVALID_ARGUMENT, "attribute reference", "read-only volume"):
        publish(node, writeBackReference=out, **how)


def test_user_who_may_only_read_is_refused(node: Driver, tmp_path: Path) -> None:
    with token_registry(tmp_path / "registry") as registry:
        registry.tokens.let_read(USER, PASSWORD, "team/out")
        registry.tokens.may_push = False
        out = f"{registry.address}/team/out:v1"
        with nothing_left(
            node, StatusCode.PERMISSION_DENIED, registry.address, "does not allow it to the credential from"
        ):
            publish(node, writeBackReference=out, secrets=SECRET)
        registry.tokens.may_push = True
        node.unpublish(publish(node, writeBackReference=out, secrets=SECRET))


def test_password_that_is_missing_or_wrong_is_refused(node: Driver, short_path: Path) -> None:
    with private_registry(short_path / "private") as (registry, _):
        out = f"{registry.address}/team/out:v1"
        with nothing_left(node, StatusCode.UNAUTHENTICATED, out.removesuffix(":v1"), "nodePublishSecretRef"):
            publish(node, writeBackReference=out)
        with nothing_left(node, StatusCode.UNAUTHENTICATED, out.removesuffix(":v1"), "volume's secret"):
            publish(node, writeBackReference=out, secrets={"username": USER, "password": "wrong"})


@pytest.mark.parametrize(
    ("code", "expected"),
    [(403, StatusCode.PERMISSION_DENIED), (404, StatusCode.NOT_FOUND), (503, StatusCode.UNAVAILABLE)],
)
def test_registry_that_takes_no_upload_is_refused(
    node: Driver, fake: FakeRegistry, code: int, expected: StatusCode
) -> None:
    fake.bend("/blobs/uploads/", status(code))
    with nothing_left(node, expected, f"{fake.address}/t/out"):
        publish(node, writeBackReference=f"{fake.address}/t/out:v1")
    fake.straighten()
    node.unpublish(publish(node, writeBackReference=f"{fake.address}/t/out:v1"))
