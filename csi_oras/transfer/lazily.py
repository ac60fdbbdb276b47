"""Which artifacts are read before they are local: those that are files as they come, and not all here.

An index that the manifest names, or that this node has made, proves each chunk before it is shown. Where node policy
wants that, an artifact without one is pulled as ever; so is everything that has to be unpacked.
"""

from collections.abc import Callable
from dataclasses import dataclass

from csi_oras.oci.chunk_index import ChunkIndex
from csi_oras.oci.plan import Plan
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.content import ContentStore
from csi_oras.transfer.chunk_indexes import ChunkIndexes
from csi_oras.transfer.request import LazyArtifact, Planned

MOST_FILES = 200_000
"""What a FUSE process serves: it holds all names in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyRules:
    """What node policy says: whether any volume may be lazy, and whether only with an index that is to be believed.

    Blobs of up to `whole_bytes` are fetched whole, and proven, before any of it is shown.
    """

    enabled: bool
    require_index: bool
    whole_bytes: int


class LazyChoice:
    """Chooses."""

    def __init__(self, content: ContentStore, indexes: ChunkIndexes, rules: Callable[[], LazyRules]) -> None:
        self._content = content
        self._indexes = indexes
        self._rules = rules

    def choose(self, client: RepositoryClient, planned: Planned, holder: str) -> LazyArtifact | str:
        """Return what to serve lazily for `holder`, or why it is to be pulled; nothing, where everything is here.

        Raises:
            StoreBrokenError: the store fails.
        """
        rules, plan, artifact = self._rules(), planned.plan, planned.artifact
        absent = [blob for blob in plan.blobs if blob.size and not self._content.has(blob)]
        if not absent:
            return ""
        if cause := _cause(rules, plan):
            return cause
        found = self._indexes.find(client, artifact.manifest, artifact.digest, hints=False)
        unproven = [blob for blob in absent if blob.size > rules.whole_bytes and not found.of(blob)]
        if rules.require_index and unproven:
            wanted = "node policy wants large files to have a chunk index that is to be believed (lazy.requireIndex)"
            return f"{wanted}, and {len(unproven)} of its files have none; csi-oras push makes one"
        return LazyArtifact(
            reference=artifact.reference.pinned(artifact.root),
            artifact=artifact.digest,
            plan=plan,
            holder=holder,
            index=ChunkIndex.of(found.index_of(blob) for blob in plan.blobs),
        )


def _cause(rules: LazyRules, plan: Plan) -> str:
    """Say why nothing of a plan can be lazy, whatever there is to prove it by."""
    if not rules.enabled:
        return "node policy lets no volume be lazy (lazy.enabled)"
    if plan.archives:
        return "it has archives, which are unpacked"
    if len(plan.entries) > MOST_FILES:
        return f"it has {len(plan.entries)} files, and a lazy volume can have {MOST_FILES}"
    return ""
