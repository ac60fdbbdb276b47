"""`csi-oras doctor REF` says of a host that it serves only where a pull would get what it asks for."""

import json
import os

import pytest

from csi_oras.oci.platform import Platform
from tests.support.artifacts import OCI_INDEX, OCI_MANIFEST, Layer, manifest, sha256
from tests.support.doctoring import Examine, mirror
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Bend, body, broken_off, header, redirect, status
from tests.support.hosts import CertsD

pytest_plugins = ["tests.support.doctor_fixtures", "tests.support.fake_fixtures"]

_LAYERS = [Layer(content=b"hello", title="a.txt")]


@pytest.mark.parametrize(
    ("path", "bend", "words"),
    [
        ("", status(200, b"<html>log in</html>", Content_Type="text/html"), 'is not JSON but begins with "<html>log'),
        ("/manifests/", header(Content_Encoding="gzip"), "comes encoded, though that was not asked for"),
        ("/manifests/", body(b'{"a":' * 100_000), "is nested too deeply"),
        ("/manifests/", body(b'{"schemaVersion": 2}'), "has no config"),
        ("/manifests/", body(b"x" * (5 << 20)), "sent more than the 4194304 bytes that are allowed here"),
        ("/blobs/", status(404), "layer 1 (a081050ef40e): the registry does not have it -> push it again"),
        ("/blobs/", status(403), "layer 1 (a081050ef40e): the registry does not allow it to an anonymous user"),
        ("/blobs/", status(500), "layer 1 (a081050ef40e): the registry answers with status 500"),
        ("/blobs/", redirect("http://127.0.0.1:1/x?signature=s3cr3t"), ": http://127.0.0.1:1: cannot be reached"),
        ("/blobs/", status(200, b"<html>log in</html>"), "has 19 bytes instead of 500"),
        ("/blobs/", broken_off(0), "layer 1 (a081050ef40e): "),
    ],
    ids=["login", "gzip", "deep", "shape", "large", "404", "403", "500", "elsewhere", "blob login", "broken off"],
)
def test_artifact_that_a_pull_could_not_get_fails(
    fake: FakeRegistry, examine: Examine, path: str, bend: Bend, words: str
) -> None:
    reference = fake.artifact("t/x", [*_LAYERS, Layer(content=b"large" * 100, title="b.txt")])
    fake.bend(path, bend)
    found = examine(reference)
    assert found.failed == ["registry", "artifact"]
    assert words in found.said("registry")
    assert "s3cr3t" not in found.said("registry")
    assert not found.said("registry").endswith("-> ")
    told = found.document["reference"]
    assert (told["digest"], told["servedBy"]) == (None, None)


def test_index_is_followed_to_the_platform_of_the_node(fake: FakeRegistry, examine: Examine) -> None:
    machine = Platform.of_machine(os.uname().machine)
    platform = {"os": machine.os, "architecture": machine.architecture}
    child = manifest(_LAYERS)
    entry = {"mediaType": OCI_MANIFEST, "digest": sha256(child), "size": len(child), "platform": platform}
    reference = f"{fake.address}/t/x:v1"
    fake.manifest("t/x", "v1", index(entry), OCI_INDEX)
    absent = examine(reference)
    assert absent.failed == ["registry", "artifact"]
    assert f"manifest {sha256(child)[7:19]}: the registry does not have it" in absent.said("registry")
    assert absent.said("registry").endswith("-> push it again")
    fake.artifact("t/x", _LAYERS, tag="child")
    assert fake.manifest("t/x", "child", child) == sha256(child)
    assert examine(reference).document["reference"]["digest"] == sha256(index(entry))
    fake.manifest("t/x", "v1", index({**entry, "platform": {"os": "plan9", "architecture": "mips"}}), OCI_INDEX)
    assert "has no manifest for platform" in examine(reference).said("registry")


def index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def test_mirror_without_the_bytes_is_a_warning_and_the_registry_serves(
    fake: FakeRegistry, examine: Examine, certs: CertsD
) -> None:
    with FakeRegistry() as other:
        other.artifact("t/x", _LAYERS)
        reference = fake.artifact("t/x", _LAYERS)
        other.bend("/blobs/", status(404))
        certs.write(fake.address, f'server = "http://{fake.address}"\n' + mirror(other.url()))
        found = examine(reference)
        assert (found.code, found.states("mirror"), found.states("registry")) == (0, ["warning"], ["ok"])
        assert f"does not have it; http://{fake.address} serves instead" in found.said("mirror")
        told = found.document["reference"]
        assert (told["resolvedBy"], told["servedBy"]) == (f"http://{other.address}/v2", f"http://{fake.address}/v2")


def test_mirror_that_is_believed_and_tells_what_nobody_can_serve_fails(
    fake: FakeRegistry, examine: Examine, certs: CertsD
) -> None:
    with FakeRegistry() as other:
        other.artifact("t/x", _LAYERS)
        reference = fake.artifact("t/x", _LAYERS)
        other.bend("/manifests/", body(b'{"schemaVersion": 2}'))
        certs.write(fake.address, f'server = "http://{fake.address}"\n' + mirror(other.url()))
        found = examine(reference)
        assert found.failed == ["mirror", "artifact"]
        assert f"no host serves what http://{other.address}/v2 says that it is" in found.said("artifact")


@pytest.mark.parametrize("layers", [[], [Layer(content=b"", title="empty")]], ids=["none", "empty"])
def test_artifact_without_bytes_is_asked_for_none(fake: FakeRegistry, examine: Examine, layers: list[Layer]) -> None:
    assert examine(fake.artifact("t/x", layers)).states("registry") == ["ok"]
    assert fake.count("/blobs/") == 0
