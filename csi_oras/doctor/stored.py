"""What the node's store has of a reference."""

from pathlib import Path

from csi_oras.doctor.check import Check, Finding
from csi_oras.errors import CsiOrasError
from csi_oras.oci.digest import Digest
from csi_oras.oci.platform import Platform
from csi_oras.oci.reference import Reference
from csi_oras.oci.selection import Selection
from csi_oras.store.catalogue import Catalogue
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths
from csi_oras.transfer.request import PullPolicy, PullRequest

_ABSENT = "it is not on this node yet"


def look(state_dir: Path, reference: Reference, platform: Platform, now: Digest | None) -> Finding:
    """Say what is here of `reference` whole, where `now` is what the registry says that it means."""
    paths = StatePaths(state_dir.absolute())
    try:
        root = _complete_root(paths, reference, platform) if paths.database.exists() else None
    except (CsiOrasError, OSError) as error:
        return _finding(Check.of_error("store", error), None)
    if root is None:
        return _finding(Check.ok("store", _ABSENT), None)
    message = f"it is on this node: {root}"
    if now and now != root:
        message = f"an earlier {reference.tag} is on this node: {root}; the next pull that asks fetches the new one"
    return _finding(Check.ok("store", message), root)


def _finding(check: Check, root: Digest | None) -> Finding:
    document = {"present": root is not None, "digest": str(root) if root else None}
    return Finding(checks=(check,), document={"store": document})


def _complete_root(paths: StatePaths, reference: Reference, platform: Platform) -> Digest | None:
    database = Database(paths.database, read_only=True)
    try:
        catalogue = Catalogue(database)
        root = catalogue.root(reference)
        if root is None:
            return None
        request = PullRequest(
            reference=reference,
            platform=platform,
            selection=Selection(),
            policy=PullPolicy.IF_NOT_PRESENT,
            credential=None,
        )
        keys = [request.view_key(goes_by_reference=by_reference) for by_reference in (False, True)]
        plans = [plan for key in keys if (plan := catalogue.plan(root, *key))]
        return root if any(paths.tree(plan.laid_out.plan).exists() for plan in plans) else None
    finally:
        database.close()
