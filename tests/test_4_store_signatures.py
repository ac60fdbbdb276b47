"""Records of good signatures: by repository, digest and key, and nothing else."""

import sqlite3
from pathlib import Path

import pytest

from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Repository
from csi_oras.store.database import Database
from csi_oras.store.grants import Grant, Grants
from csi_oras.store.signatures import SignatureRecords

HERE, THERE = Repository(registry="r.example", name="a"), Repository(registry="r.example", name="b")
ROOT, OTHER = Digest.of(b"root"), Digest.of(b"other")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def records(path: Path) -> SignatureRecords:
    records = SignatureRecords(Database(path))
    records.add(HERE, ROOT, "key")
    records.add(HERE, ROOT, "key")
    return records


def test_record_is_known_for_its_repository_digest_and_key_only(records: SignatureRecords) -> None:
    assert records.known(HERE, [OTHER, ROOT], ["new", "key"])
    assert not records.known(THERE, [ROOT], ["key"])
    assert not records.known(HERE, [OTHER], ["key"])
    assert not records.known(HERE, [ROOT], ["new"])
    assert not records.known(HERE, [ROOT], [])
    assert not records.known(HERE, [], ["key"])


def test_record_is_known_after_a_restart(records: SignatureRecords, path: Path) -> None:
    del records
    assert SignatureRecords(Database(path)).known(HERE, [ROOT], ["key"])


def test_database_of_an_older_release_keeps_its_records_and_takes_signatures(path: Path) -> None:
    Grants(Database(path)).add([Grant(HERE, ROOT, "who")])
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE signatures")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    database = Database(path)
    SignatureRecords(database).add(HERE, ROOT, "key")
    assert SignatureRecords(database).known(HERE, [ROOT], ["key"])
    assert Grants(database).allow(HERE, ROOT, "who")
