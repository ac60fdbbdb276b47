"""What is kept of lazy trees: found by the next process as it was left, whatever a full disk refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_oras.errors import NoSpaceError
from csi_oras.lazy.kept import KeptTree, KeptTrees
from csi_oras.oci.digest import Digest
from csi_oras.oci.name import Name
from csi_oras.oci.plan import Plan, PlanEntry
from csi_oras.oci.reference import Reference
from csi_oras.registry.credentials import Credential
from csi_oras.telemetry.secrets import Secret
from csi_oras.transfer.request import LazyArtifact
from tests.support.lazies import blob_of, index_of
from tests.support.planted import planted
from tests.support.small_disk import SmallDisk, small_disk

LARGE = bytes(3 << 20)
ARTIFACT = LazyArtifact(
    reference=Reference.parse(f"reg.example/t/x@{Digest.of(b'manifest')}"),
    artifact=Digest.of(b"manifest"),
    plan=Plan(
        entries=(
            PlanEntry(name=Name((".oci", "manifest.json")), blob=blob_of(b"{}"), layer=None, rule="metadata"),
            PlanEntry(name=Name(("a", "b")), blob=blob_of(LARGE), layer=None, rule="title", mode=0o555),
        )
    ),
    holder="somebody",
    index=index_of(LARGE),
)


def credential(password: str) -> Credential:
    return Credential(username="user", password=Secret(planted(password)), source="test")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        yield mounted


@pytest.fixture
def kept(disk: SmallDisk) -> KeptTrees:
    return KeptTrees(disk.directory / "lazy")


pytestmark = pytest.mark.needs("root")


def test_tree_is_found_as_it_was_kept(kept: KeptTrees) -> None:
    kept.save(KeptTree(artifact=ARTIFACT, credential=credential("kept")))
    kept.add_poisoned(ARTIFACT.tree, blob_of(LARGE).digest)
    (found,) = kept.all()
    assert (found.artifact.tree, found.artifact.plan.digest) == (ARTIFACT.tree, ARTIFACT.plan.digest)
    assert found.artifact.index
    assert ARTIFACT.index
    assert found.artifact.index.content == ARTIFACT.index.content
    assert found.credential
    assert found.credential.opens_as(credential("kept"))
    assert found.poisoned == {blob_of(LARGE).digest}


def test_credential_that_a_full_disk_refuses_leaves_the_tree_as_it_is(kept: KeptTrees, disk: SmallDisk) -> None:
    kept.save(KeptTree(artifact=ARTIFACT, credential=credential("kept")))
    disk.fill()
    with pytest.raises(NoSpaceError):
        kept.renew(ARTIFACT.tree, credential("another"))
    (found,) = kept.all()
    assert found.credential
    assert found.credential.opens_as(credential("kept"))


def test_tree_that_a_full_disk_refuses_leaves_nothing(kept: KeptTrees, disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(NoSpaceError):
        kept.save(KeptTree(artifact=ARTIFACT, credential=credential("kept")))
    disk.clear()
    assert kept.names() == set()
