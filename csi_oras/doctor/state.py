"""The state directory: whether a store can live there. Nothing is made, and nothing in it is changed."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from csi_oras.doctor.check import Check, Examination
from csi_oras.errors import StoreBrokenError
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths
from csi_oras.telemetry.progress import human_size

_LITTLE = 0.05
"""The share of bytes or inodes below which an admin should hear of it."""
_ROOT = 0


def examinations(root: Path) -> Mapping[str, Examination]:
    """Return what there is to look at below a state directory."""
    paths = StatePaths(root.absolute())
    return {
        "state directory": lambda: check_directory(paths),
        "space": lambda: check_space(paths),
        "database": lambda: check_database(paths),
    }


def check_directory(paths: StatePaths) -> Iterator[Check]:
    """Look at owner, mode and file system."""
    if not paths.root.exists():
        message = f"{paths.root} is not there: the driver makes it when it starts"
        yield Check.warning("state directory", message, "check --state-dir")
        return
    if not paths.root.is_dir():
        message = f"{paths.root} is no directory, so no store can live there"
        yield Check.failed("state directory", message, "name a directory by --state-dir, here and for the driver")
        return
    status = paths.root.stat()
    mode = stat.S_IMODE(status.st_mode)
    elsewhere = [place for place in _places(paths) if place.stat().st_dev != status.st_dev]
    if elsewhere:
        message = f"{elsewhere[0]} is on another file system than {paths.root}, and files are linked across them"
        yield Check.failed("state directory", message, "mount one file system at the state directory and none below it")
    if status.st_uid not in (_ROOT, os.geteuid()):
        message = f"{paths.root} belongs to user {status.st_uid}, who can change what pods see"
        yield Check.failed("state directory", message, f"chown root: {paths.root}")
    elif mode & 0o022:
        message = f"{paths.root} has mode {mode:04o}: others can change what pods see"
        yield Check.failed("state directory", message, f"chmod 0700 {paths.root}")
    elif mode & 0o055:
        message = f"{paths.root} has mode {mode:04o}: others can read every artifact of the node"
        yield Check.warning("state directory", message, f"chmod 0700 {paths.root}")
    elif not elsewhere:
        yield Check.ok("state directory", f"{paths.root} is one file system, closed to others")


def _places(paths: StatePaths) -> list[Path]:
    places = (paths.blobs, paths.ingests, paths.trees, paths.staging, paths.objects)
    return [place for place in places if place.is_dir()]


def check_space(paths: StatePaths) -> Iterator[Check]:
    """Look at free bytes and inodes; some file systems do not count the latter."""
    if not paths.root.is_dir():
        return
    status = os.statvfs(paths.root)
    size, room = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    said = f"{human_size(room)} of {human_size(size)} are free"
    inodes = status.f_favail / status.f_files if status.f_files else 1.0
    if status.f_files:
        said = f"{said}, and {status.f_favail} inodes"
    remedy = f"make room on the file system of {paths.root}"
    if status.f_flag & os.ST_RDONLY:
        yield Check.failed("space", f"{paths.root} is on a file system that is read-only", "look at the node's disk")
    elif not room or not inodes:
        yield Check.failed("space", f"the file system is full: {said}", remedy)
    elif min(room / max(size, 1), inodes) < _LITTLE:
        yield Check.warning("space", f"the file system is almost full: {said}", remedy)
    else:
        yield Check.ok("space", said)


def check_database(paths: StatePaths) -> Iterator[Check]:
    """Read the database."""
    if not paths.database.exists():
        return
    database = Database(paths.database, read_only=True)
    try:
        artifacts = Catalogue(database).artifacts()
    except StoreBrokenError as error:
        yield Check.of_error("database", error)
    else:
        volumes = sum(artifact.volumes for artifact in artifacts)
        yield Check.ok("database", f"it can be read: artifacts: {len(artifacts)}, volumes: {volumes}")
    finally:
        database.close()
