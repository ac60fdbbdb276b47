"""Recall: what the store may show without a pull, to exactly those who may read it.

Nothing of the store is shown to a credential that has not been seen to read it in this very repository: that is what
grants record, for each manifest, blob and plan.
"""

from dataclasses import dataclass, replace

from csi_oras.errors import ArtifactNotFoundError
from csi_oras.oci.digest import Digest
from csi_oras.oci.reference import Reference
from csi_oras.registry.client import RepositoryClient
from csi_oras.registry.credentials import Credential
from csi_oras.store.catalogue import Catalogue, CataloguedPlan
from csi_oras.store.collection import Collector
from csi_oras.store.content import ContentStore
from csi_oras.store.grants import ANONYMOUS, Grants, holder
from csi_oras.store.leases import Leases
from csi_oras.store.objects import ObjectStore
from csi_oras.store.trees import TreeStore
from csi_oras.store.views import Views
from csi_oras.transfer.access import Access
from csi_oras.transfer.request import PulledArtifact, PullPolicy, PullRequest
from csi_oras.transfer.verify import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The parts of the store that a pull works on."""

    content: ContentStore
    objects: ObjectStore
    trees: TreeStore
    catalogue: Catalogue
    grants: Grants
    grant_key: bytes
    leases: Leases
    collector: Collector
    views: Views


class Recall:
    """Finds what needs no pull."""

    def __init__(self, access: Access, store: Store, verifier: Verifier) -> None:
        self._access = access
        self._store = store
        self._verifier = verifier

    def find(self, request: PullRequest) -> PulledArtifact | None:
        """Return the artifact if the store may show it without asking the registry, else None.

        Raises:
            ArtifactNotFoundError: `Never`, and nothing is here that this credential was seen to read.
            SignatureError: `Never`, and it was not verified as node policy wants it by now.
        """
        if request.policy is PullPolicy.ALWAYS:
            return None
        known = self._access.at_once(request.reference.repository, request.brought)
        if known:
            return self.find_as(replace(request, credential=known.credential))
        found = self._granted(request)  # what everybody may read needs no credential, and with it no plugin
        return self._as_verified(request, found) if found else None

    def find_as(self, request: PullRequest) -> PulledArtifact | None:
        """Return the artifact if the store may show it to exactly the credential of the request.

        Raises:
            ArtifactNotFoundError, SignatureError: as for `find`.
        """
        if request.policy is PullPolicy.ALWAYS:
            return None
        found = self._granted(request)
        if found is None and request.policy is PullPolicy.NEVER:
            raise _absent(request.reference)
        return self._as_verified(request, found) if found else None

    def find_unchanged(self, client: RepositoryClient, request: PullRequest) -> PulledArtifact | None:
        """Ask with one HEAD whether a tag still means what is here; a registry's quota counts no HEAD."""
        found = self._granted(request)
        if found is None:
            return None
        return found if client.digest_hint(request.reference.identifier) == found.reference.digest else None

    def known_as(self, credential: Credential | None, mirrors: str) -> str:
        """Return what grants know a credential by."""
        return holder(credential.keyed_hash(self._store.grant_key) if credential else ANONYMOUS, mirrors)

    def pulled(self, reference: Reference, found: CataloguedPlan) -> PulledArtifact:
        """Return an artifact as it lies in the store."""
        laid_out = found.laid_out
        tree = self._store.trees.path(laid_out.plan)
        return PulledArtifact(
            reference=reference,
            artifact=found.artifact,
            plan=laid_out.plan,
            size=laid_out.size,
            files=laid_out.files,
            path=tree / laid_out.single if laid_out.single else tree,
        )

    def _granted(self, request: PullRequest) -> PulledArtifact | None:
        root = self._store.catalogue.root(request.reference)
        found = self._known(request, root) if root else None
        if root is None or found is None or not self._store.trees.has(found.laid_out.plan):
            return None
        repository = request.reference.repository
        asker = self.known_as(request.credential, self._access.lenders(repository))
        if not self._store.grants.allow(repository, found.laid_out.plan, asker):
            return None
        return self.pulled(request.reference.pinned(root), found)

    def _known(self, request: PullRequest, root: Digest) -> CataloguedPlan | None:
        find = self._store.catalogue.plan
        return find(root, *request.view_key(goes_by_reference=False)) or find(
            root, *request.view_key(goes_by_reference=True)
        )

    def _as_verified(self, request: PullRequest, found: PulledArtifact) -> PulledArtifact | None:
        """Return what is here if it is verified as node policy wants it by now; else it counts as absent."""
        never = request.policy is PullPolicy.NEVER
        reference = request.reference
        warnings = self._verifier.recall(reference.repository, found.verifiable, str(reference), raising=never)
        return None if warnings is None else replace(found, warnings=tuple(warnings))


def _absent(reference: Reference) -> ArtifactNotFoundError:
    """Say the same of what is not here and of what others have here, or `Never` would tell a stranger which it is."""
    cause = "is not on this node for this credential, and pullPolicy is Never"
    return ArtifactNotFoundError(str(reference), cause, "set pullPolicy: IfNotPresent to ask the registry")
