import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import StoreBrokenError
from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.store.catalogue import Catalogue, CataloguedPlan, LaidOut
from csi_oras.store.database import Database
from csi_oras.store.grants import ANONYMOUS, Grant, Grants, load_key
from csi_oras.store.paths import StatePaths
from csi_oras.store.volumes import VolumeRecord, VolumeRecords, VolumeState

_AMD64 = Platform("linux", "amd64", "")
_ROOT, _ARTIFACT = Digest.of(b"root"), Digest.of(b"artifact")
_RECORD = VolumeRecord(
    volume_id="v1",
    target="/t/1",
    state=VolumeState.PUBLISHED,
    fingerprint="f",
    reference="reg.example/a:v1",
    artifact=str(_ARTIFACT),
    plan=str(Digest.of(b"plan")),
    size=10,
    files=2,
    pod="default/p",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def database(path: Path) -> Database:
    return Database(path)


def filled(path: Path) -> None:
    """A database of many pages, closed."""
    database = Database(path)
    records = VolumeRecords(database)
    with database.transaction():
        for number in range(500):
            database.query("INSERT INTO tags VALUES (?, ?, ?)", f"reg.example/{number}", "v1", "x" * 200)
    records.put(_RECORD)
    database.query("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def overwrite(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * length)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(0, 100, id="header"),
        pytest.param(0, 1 << 20, id="everything"),
        pytest.param(4096, 40_960, id="pages in the middle"),
    ],
)
def test_corrupt_database_is_set_aside_and_replaced(path: Path, offset: int, length: int) -> None:
    filled(path)
    overwrite(path, offset, length)
    records = VolumeRecords(Database(path))
    assert records.all() == []
    records.put(_RECORD)
    assert records.get("v1", "/t/1") == _RECORD
    assert len(list(path.parent.glob("state.db.corrupt-*"))) == 1


def test_sound_database_keeps_its_records(path: Path) -> None:
    filled(path)
    assert VolumeRecords(Database(path)).all() == [_RECORD]
    assert list(path.parent.glob("*.corrupt-*")) == []


def test_record_that_rotted_counts_as_absent_and_harms_no_other(path: Path) -> None:
    filled(path)
    records = VolumeRecords(Database(path))
    for volume_id in ("v2", "v3"):
        records.put(replace(_RECORD, volume_id=volume_id))
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE volumes SET state = CAST(X'7075ff' AS TEXT) WHERE volume_id = 'v2'")
        other.execute("UPDATE volumes SET reference = CAST(X'72ff' AS TEXT) WHERE volume_id = 'v3'")
        other.commit()
    assert [record.volume_id for record in records.all()] == ["v1", "v3"]
    assert records.get("v2", "/t/1") is None
    records.put(replace(_RECORD, volume_id="v2"))
    assert records.get("v2", "/t/1") == replace(_RECORD, volume_id="v2")


def test_damage_that_is_met_later_is_told_and_set_aside_by_the_next_start(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as other:
        (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'leases_by_digest'").fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    content = path.read_bytes()
    start, end = size * (page - 1), size * page
    path.write_bytes(content[:start] + content[start:end].replace(b"sha256", b"sha000") + content[end:])
    database = Database(path)
    with pytest.raises(StoreBrokenError, match=r"is damaged .* restart the driver"):
        VolumeRecords(database).drop("v1", "/t/1")
    with pytest.raises(StoreBrokenError, match="is damaged"):
        database.check()
    database.close()
    database = Database(path)
    database.check()
    assert len(list(path.parent.glob("state.db.corrupt-*"))) == 1


def test_corrupt_database_is_not_set_aside_under_who_uses_it(path: Path) -> None:
    filled(path)
    driver = Database(path)
    overwrite(path, 0, 100)
    with pytest.raises(StoreBrokenError, match="restart the driver"):
        Database(path)
    assert list(path.parent.glob("state.db.corrupt-*")) == []
    driver.close()
    Database(path).check()


def test_database_of_a_newer_release_is_refused_and_kept(path: Path) -> None:
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreBrokenError, match="newer release"):
        Database(path)
    assert list(path.parent.glob("*.corrupt-*")) == []


def test_database_that_is_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreBrokenError, match=r"state\.db"):
        Database(path)


def test_database_is_for_its_owner_alone(path: Path, database: Database) -> None:
    del database
    assert path.stat().st_mode & 0o777 == 0o600


def test_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction():
            database.query("INSERT INTO tags VALUES ('r', 't', 'x')")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert database.query("SELECT * FROM tags") == []
    with database.transaction():  # and the next one works
        database.query("INSERT INTO tags VALUES ('r', 't', 'x')")
    assert len(database.query("SELECT * FROM tags")) == 1


def test_two_processes_records_are_seen_by_both(path: Path, database: Database) -> None:
    other = Database(path)
    VolumeRecords(database).put(_RECORD)
    assert VolumeRecords(other).get("v1", "/t/1") == _RECORD


def test_bad_statement_is_an_error_of_the_store(database: Database) -> None:
    with pytest.raises(StoreBrokenError, match="the store fails"):
        database.query("SELECT * FROM nothing")


def test_grant_holds_for_its_repository_digest_and_credential_only(database: Database) -> None:
    grants = Grants(database)
    repository = Reference.parse("reg.example/team/model:v1").repository
    others = [Reference.parse(text).repository for text in ("reg.example/team/other:v1", "else.example/team/model:v1")]
    grants.add([Grant(repository, _ROOT, "alice")])
    assert grants.allow(repository, _ROOT, "alice")
    assert not grants.allow(repository, _ROOT, "bob")
    assert not grants.allow(repository, _ROOT, ANONYMOUS)
    assert not grants.allow(repository, _ARTIFACT, "alice")
    assert not any(grants.allow(other, _ROOT, "alice") for other in others)


def test_anonymous_grant_opens_to_everybody(database: Database) -> None:
    grants = Grants(database)
    repository = Reference.parse("reg.example/team/model:v1").repository
    grants.add([Grant(repository, _ROOT, ANONYMOUS)])
    assert grants.allow(repository, _ROOT, "alice")
    assert grants.allow(repository, _ROOT, ANONYMOUS)
    assert not grants.allow(repository, _ARTIFACT, "alice")


def test_grant_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    paths = StatePaths.create(tmp_path / "state")
    key = load_key(paths)
    assert len(key) == 32
    assert load_key(paths) == key
    assert paths.grant_key.stat().st_mode & 0o777 == 0o600


def test_torn_grant_key_is_made_anew(tmp_path: Path) -> None:
    paths = StatePaths.create(tmp_path / "state")
    paths.grant_key.write_bytes(b"torn")
    key = load_key(paths)
    assert len(key) == 32
    assert load_key(paths) == key


def _found(plan: bytes, single: str = "") -> CataloguedPlan:
    return CataloguedPlan(artifact=_ARTIFACT, laid_out=LaidOut(plan=Digest.of(plan), size=6, files=2, single=single))


def test_catalogue_remembers_tags_per_repository_and_plans_per_selection(database: Database) -> None:
    catalogue, reference = Catalogue(database), Reference.parse("reg.example/a:v1")
    catalogue.add(reference, _ROOT, _found(b"plan"), (_AMD64, "all"))
    assert catalogue.root(reference) == _ROOT
    assert catalogue.root(Reference.parse("reg.example/b:v1")) is None
    assert catalogue.root(Reference.parse(f"reg.example/b@{_ARTIFACT}")) == _ARTIFACT
    assert catalogue.plan(_ROOT, _AMD64, "all") == _found(b"plan")
    assert catalogue.plan(_ROOT, _AMD64, "some") is None
    assert catalogue.plan(_ROOT, Platform("linux", "arm64", ""), "all") is None


def test_catalogue_follows_a_moved_tag(database: Database) -> None:
    catalogue, reference = Catalogue(database), Reference.parse("reg.example/a:v1")
    catalogue.add(reference, _ROOT, _found(b"one"), (_AMD64, "all"))
    moved = replace(_found(b"two"), artifact=Digest.of(b"new"))
    catalogue.add(reference, Digest.of(b"new"), moved, (_AMD64, "all"))
    assert catalogue.root(reference) == Digest.of(b"new")
    assert catalogue.count() == 2


def test_catalogue_knows_the_only_file_of_a_single_plan(database: Database) -> None:
    catalogue = Catalogue(database)
    reference = Reference.parse("reg.example/a:v1")
    catalogue.add(reference, _ROOT, _found(b"x", single="x.bin"), (_AMD64, "path=x.bin"))
    found = catalogue.plan(_ROOT, _AMD64, "path=x.bin")
    assert found is not None
    assert found.laid_out.single == "x.bin"
    assert catalogue.laid_out(Digest.of(b"x")) == found.laid_out
    assert catalogue.laid_out(Digest.of(b"y")) is None


def test_catalogue_lists_artifacts_with_references_and_volumes(database: Database) -> None:
    catalogue, records = Catalogue(database), VolumeRecords(database)
    for text in ("reg.example/a:v1", "reg.example/a:v2", "reg.example/b:v1"):
        catalogue.add(Reference.parse(text), _ROOT, _found(b"one"), (_AMD64, "all"))
    records.put(_RECORD)
    records.put(replace(_RECORD, target="/t/2"))
    records.put(replace(_RECORD, target="/t/3", state=VolumeState.PUBLISHING))
    (listed,) = catalogue.artifacts()
    assert listed.digest == _ARTIFACT
    assert listed.references == ("reg.example/a:v1", "reg.example/a:v2", "reg.example/b:v1")
    assert (listed.size, listed.volumes) == (6, 2)


def test_volume_record_is_the_lease_on_its_artifact(database: Database) -> None:
    records = VolumeRecords(database)
    records.put(_RECORD)
    held = {row[0] for row in database.query("SELECT digest FROM leases")}
    assert held == {_RECORD.artifact, _RECORD.plan}
    records.drop("v1", "/t/1")
    assert records.all() == []
    assert database.query("SELECT * FROM leases") == []


def test_volume_records_are_by_volume_and_target(database: Database) -> None:
    records = VolumeRecords(database)
    other = replace(_RECORD, target="/t/2", state=VolumeState.PUBLISHING)
    records.put(_RECORD)
    records.put(other)
    assert records.get("v1", "/t/2") == other
    assert records.get("v2", "/t/1") is None
    assert records.published() == 1
    records.drop("v1", "/t/1")
    assert records.all() == [other]


# -- a look that changes nothing


def test_look_at_a_closed_database_reads_it_and_leaves_no_file(path: Path) -> None:
    filled(path)
    before = path.read_bytes()
    looking = Database(path, read_only=True)
    assert VolumeRecords(looking).all() == [_RECORD]
    with pytest.raises(StoreBrokenError):
        looking.query("DELETE FROM volumes")
    looking.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_look_at_an_open_database_sees_what_was_last_written(path: Path, database: Database) -> None:
    VolumeRecords(database).put(_RECORD)
    looking = Database(path, read_only=True)
    assert VolumeRecords(looking).all() == [_RECORD]
    looking.close()
    assert VolumeRecords(database).all() == [_RECORD]


def test_look_at_a_damaged_database_says_so_and_leaves_it(path: Path) -> None:
    filled(path)
    overwrite(path, 4096, 8192)
    before = path.read_bytes()
    with pytest.raises(StoreBrokenError, match="is damaged"):
        Database(path, read_only=True)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_look_at_a_database_that_was_cut_short_says_so(path: Path) -> None:
    filled(path)
    path.write_bytes(b"")
    with pytest.raises(StoreBrokenError, match="cut short"):
        Database(path, read_only=True)
    assert path.read_bytes() == b""


def test_look_at_an_absent_database_makes_none(path: Path) -> None:
    with pytest.raises(StoreBrokenError):
        Database(path, read_only=True)
    assert not path.exists()


def test_pinned_reference_says_nothing_of_its_tag_and_is_listed_as_it_is(database: Database) -> None:
    catalogue = Catalogue(database)
    tagged, pinned = Reference.parse("reg.example/a:v1"), Reference.parse(f"reg.example/a:v1@{Digest.of(b'old')}")
    catalogue.add(tagged, _ROOT, _found(b"one"), (_AMD64, "all"))
    catalogue.add(pinned, Digest.of(b"old"), replace(_found(b"two"), artifact=Digest.of(b"old")), (_AMD64, "all"))
    assert catalogue.root(tagged) == _ROOT
    assert {reference for artifact in catalogue.artifacts() for reference in artifact.references} == {
        "reg.example/a:v1",
        str(pinned),
    }
