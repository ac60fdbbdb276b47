"""A store as anybody can look at it from outside: its files and its rows, with nothing of the driver's code."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

_KEPT = ("blobs", "objects", "trees", "ingest", "staging", "quarantine", "views")
_FIXED = frozenset({"blobs/sha256", "blobs/sha512", "objects/sha256"})


class Outside:
    """The state directory of a driver, whether it runs or not."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """Every row of a table."""
        return self._query(f"SELECT {columns} FROM {table}")  # noqa: S608 (names of the test's own)

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.state}/state.db?mode=ro", uri=True)) as database:
            database.execute("PRAGMA busy_timeout = 10000")
            return database.execute(statement).fetchall()

    def blobs(self) -> set[str]:
        """The digests of the blobs that are visible."""
        return {f"sha256:{path.name}" for path in self._files("blobs")}

    def files(self) -> list[str]:
        """Everything that the store keeps, by its path in it."""
        found = (path for part in _KEPT for path in (self.state / part).rglob("*"))
        return sorted(set(map(self._relative, found)) - _FIXED)

    def unfinished(self) -> list[str]:
        """What is neither visible nor gone."""
        return [path for path in self.files() if path.startswith(("ingest/", "staging/"))]

    def check(self) -> None:
        """See to it that whatever is visible is true, and that the database is sound."""
        assert self._query("PRAGMA integrity_check") == [("ok",)]
        for path in self._files("blobs"):
            assert _digest(path) == path.name, path
            assert path.stat().st_mode & 0o222 == 0, path
        for path in self._files("objects"):
            digest, _, mode = path.name.partition("-")
            assert (_digest(path), f"{path.stat().st_mode & 0o7777:04o}") == (digest, mode), path

    def _files(self, part: str) -> Iterator[Path]:
        return (path for path in (self.state / part).rglob("*") if path.is_file())

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.state))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its relative name; of what is a file itself, that by no name."""
    if directory.is_file():
        return {"": directory.read_bytes()}
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def is_read_only(path: Path) -> bool:
    """Say whether what is mounted at a path is read-only."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
