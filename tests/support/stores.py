"""Stores that tests open beside a driver, or without one."""

from csi_oras.store.content import ContentStore
from csi_oras.store.database import Database
from csi_oras.store.grants import Grants
from csi_oras.store.paths import StatePaths


def content_store(paths: StatePaths) -> ContentStore:
    """Open the blobs of a state directory."""
    return ContentStore(paths, Grants(Database(paths.database)))
