"""The database: what the file system cannot say by itself. It can be lost; blobs and trees are their own truth.

Write-ahead logging without a sync per commit: a power cut may lose the last records, and takes the mounts that
they are about with it. Transactions are short, and the last lock that anybody takes.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from csi_oras.errors import NoSpaceError, StoreBrokenError
from csi_oras.telemetry.logs import logger

_BUSY_MILLISECONDS = 10_000
_LOOK_MILLISECONDS = 2_000
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_RESTART = "restart the driver: it sets the file aside, and finds blobs and mounts again without it"
_RESERVED_BYTES = 4 << 20
_PAGE_BYTES = 4096
_SCHEMA = 4
_TABLES = """
CREATE TABLE IF NOT EXISTS volumes (
  volume_id TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, fingerprint TEXT NOT NULL,
  reference TEXT NOT NULL, artifact TEXT NOT NULL, plan TEXT NOT NULL, bytes INTEGER NOT NULL,
  files INTEGER NOT NULL, pod TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (volume_id, target)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
  holder TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (holder, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leases_by_digest ON leases (digest);
CREATE TABLE IF NOT EXISTS holders (holder TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artifacts (
  digest TEXT PRIMARY KEY, root TEXT NOT NULL, bytes INTEGER NOT NULL, last_used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
  repository TEXT NOT NULL, tag TEXT NOT NULL, root TEXT NOT NULL, PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_by_root ON tags (root);
CREATE TABLE IF NOT EXISTS plans (
  root TEXT NOT NULL, platform TEXT NOT NULL, selection TEXT NOT NULL, artifact TEXT NOT NULL, plan TEXT NOT NULL,
  bytes INTEGER NOT NULL, files INTEGER NOT NULL, single TEXT NOT NULL, PRIMARY KEY (root, platform, selection)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS plans_by_plan ON plans (plan);
CREATE INDEX IF NOT EXISTS plans_by_artifact ON plans (artifact);
CREATE TABLE IF NOT EXISTS contents (
  artifact TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (artifact, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contents_by_digest ON contents (digest);
CREATE TABLE IF NOT EXISTS wishes (
  wish TEXT NOT NULL, reference TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL, updated REAL NOT NULL,
  error TEXT NOT NULL, PRIMARY KEY (wish, reference)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passes (
  name TEXT PRIMARY KEY, began REAL NOT NULL, position TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (
  repository TEXT NOT NULL, digest TEXT NOT NULL, credential TEXT NOT NULL,
  PRIMARY KEY (repository, digest, credential)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS grants_by_digest ON grants (digest);
CREATE TABLE IF NOT EXISTS signatures (
  repository TEXT NOT NULL, digest TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (repository, digest, key)
) WITHOUT ROWID;
"""


class Database:
    """One connection that all threads share, a statement or a transaction at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the database at `path`, made if it is not there; `read_only` is to look and leave everything as it is.

        Raises:
            StoreBrokenError: it cannot be opened, or a newer release has written it; read-only, also if it is damaged.
        """
        self._lock = threading.RLock()
        self._path = path
        with ExitStack() as opened:
            in_use = _mark_in_use(path)
            opened.callback(os.close, in_use)
            self._connection = _open_read_only(path) if read_only else _open_or_replace(path, in_use)
            self._opened = opened.pop_all()

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Raises:
            StoreBrokenError: the database fails.
            NoSpaceError: the disk is full.
        """
        with self._lock, self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the statements of a block visible together or not at all.

        Raises:
            StoreBrokenError: the database fails.
            NoSpaceError: the disk is full.
        """
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite may have rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise

    def reserve(self) -> None:
        """Have pages that are free, and a log as large, so that records can be written on a disk that is full.

        What was written and deleted leaves its pages to what comes next, and the log is written over from its start.
        """
        with self._lock, suppress(sqlite3.Error):  # there is no room for it now
            if self._connection.execute("PRAGMA freelist_count").fetchone()[0] > _RESERVED_BYTES // _PAGE_BYTES // 2:
                return
            self._connection.execute("INSERT INTO passes VALUES ('reserve', 0, zeroblob(?))", (_RESERVED_BYTES,))
            self._connection.execute("DELETE FROM passes WHERE name = 'reserve'")

    def insert_many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Run one statement for many rows, together.

        Raises:
            StoreBrokenError: the database fails.
            NoSpaceError: the disk is full.
        """
        with self.transaction():
            self._connection.executemany(statement, rows)

    def check(self) -> None:
        """Let a database pass that can be read and has shown no damage.

        Raises:
            StoreBrokenError: it has, and only a start without it helps.
        """
        self.query("SELECT 1")
        if _suspicion(self._path).exists():
            raise StoreBrokenError("database", "is damaged", _RESTART)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_FULL":
                raise NoSpaceError("database", "the store's file system is full", "make room") from error
            if name.startswith(_DAMAGED):  # in what a start has no time to look at
                with suppress(OSError):  # a file system that takes no more
                    _suspicion(self._path).touch()
                raise StoreBrokenError("database", f"is damaged ({error})", _RESTART) from error
            raise StoreBrokenError("database", f"the store fails ({error})", "look at the node's disk") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()
            self._opened.close()


def _mark_in_use(path: Path) -> int:
    """Lock what nobody else may who sets the database aside, or two processes would go on with one each."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(directory, fcntl.LOCK_SH)
    except OSError as error:
        raise _cannot_open(path, error) from error
    return directory


def _suspicion(path: Path) -> Path:
    """Return the file that tells the next start of damage."""
    return path.with_name(f"{path.name}.suspect")


def _open_or_replace(path: Path, in_use: int) -> sqlite3.Connection:
    try:
        return _open(path)
    except (sqlite3.OperationalError, OSError) as error:
        raise _cannot_open(path, error) from error
    except sqlite3.DatabaseError as error:  # not a database any more: the store can be rebuilt without it
        _set_aside(path, in_use, error)
        return _open(path)


def _set_aside(path: Path, in_use: int, cause: sqlite3.DatabaseError) -> None:
    try:
        fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreBrokenError(f"database {path}", f"is damaged ({cause})", _RESTART) from cause
    aside = path.with_name(f"{path.name}.corrupt-{int(time.time())}")
    with suppress(FileNotFoundError):
        path.rename(aside)
    for suffix in ("-wal", "-shm", ".suspect"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    logger.error("the database was corrupt and is set aside", aside=str(aside), cause=str(cause))
    fcntl.flock(in_use, fcntl.LOCK_SH)


def _cannot_open(path: Path, error: Exception) -> StoreBrokenError:
    with suppress(OSError):
        if path.stat().st_size == 0:  # whoever has it open holds locks in what there was
            return _cut_short(path)
    return StoreBrokenError(f"database {path}", f"cannot be opened ({error})", "look at the node's disk")


def _cut_short(path: Path) -> StoreBrokenError:
    return StoreBrokenError(f"database {path}", "is damaged (it was cut short, and is empty)", _RESTART)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.text_factory = _text
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < _SCHEMA:  # so far, every release has only added tables
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        connection.execute("COMMIT")
        path.chmod(0o600)  # on a file system that takes no writes this fails, and nothing above
    except BaseException:
        connection.close()
        raise
    _refuse_newer(connection, version, path)
    return connection


def _open_read_only(path: Path) -> sqlite3.Connection:
    # the log is there while anybody has it open; without one, SQLite would make it for a mere look
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False)
        try:
            connection.text_factory = _text
            connection.execute(f"PRAGMA busy_timeout = {_LOOK_MILLISECONDS}")
            _check(connection, path)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        raise _cannot_open(path, error) from error
    except sqlite3.DatabaseError as error:
        raise StoreBrokenError(f"database {path}", f"is damaged ({error})", _RESTART) from error
    if not version:
        connection.close()
        raise _cut_short(path)
    _refuse_newer(connection, version, path)
    return connection


def _text(content: bytes) -> str:
    """Read what was a text; if it rotted, that is one record's harm, and not that of all who are read with it."""
    return content.decode(errors="replace")


def _refuse_newer(connection: sqlite3.Connection, version: int, path: Path) -> None:
    if version > _SCHEMA:
        connection.close()
        raise StoreBrokenError(f"database {path}", "was written by a newer release", "run that release again")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Find damaged pages now, or every call that meets one would fail for ever; 70 ms for 10,000 artifacts.

    To look at indexes, too, takes seven times as long; who has met damage there has left word of it.
    """
    is_suspect = _suspicion(path).exists()
    state = "damage was met in it" if is_suspect else connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)
