"""Verification: an artifact that node policy wants signed is let through only with a signature by a key of it.

Every rule that matches a repository must be met, so that adding a rule never weakens another. What was verified is
recorded by key, so that a cached artifact needs no registry, and an artifact that was here before a rule or a key
came into force counts as not verified. Number, bytes and time are bounded before anything is computed: whoever may
push to a repository may put there as many false signatures as he likes.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

from csi_oras.errors import (
    ArtifactNotFoundError,
    LimitExceededError,
    SignatureError,
    UnacceptableError,
    UnobtainableError,
)
from csi_oras.oci import manifest as manifests
from csi_oras.oci import media_types
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.digest import Digest
from csi_oras.oci.manifest import Manifest
from csi_oras.oci.reference import Repository
from csi_oras.policy import signatures
from csi_oras.policy.signatures import VerificationRule
from csi_oras.registry.client import RepositoryClient
from csi_oras.store.signatures import SignatureRecords
from csi_oras.telemetry.logs import logger
from csi_oras.telemetry.metrics import Metrics, SignatureOutcome

MOST_DOCUMENTS = 100
"""Manifests and signatures that are fetched to find a good one."""
_LARGEST_MANIFEST, _LARGEST_SIGNATURE = 1 << 20, 256 << 10
_MOST_LAYERS = 1000
_SECONDS = 60.0
_SIGNATURE_TYPES = (signatures.SIMPLE_SIGNING, signatures.BUNDLE)
_REFERRER_TYPES = (signatures.BUNDLE, signatures.COSIGN_ARTIFACT)
_UNTYPED = ("", media_types.EMPTY)
"""What registries list that do not know the artifact type of a manifest."""
_REMEDY = "sign it with cosign, or ask the cluster's administrator (verification)"

_Rules = Sequence[VerificationRule]


class Verifier:
    """Holds artifacts against the rules that are in force at the moment."""

    def __init__(self, rules: Callable[[], _Rules], records: SignatureRecords, metrics: Metrics) -> None:
        self._rules = rules
        self._records = records
        self._metrics = metrics

    def in_force(self, repository: Repository) -> Hashable:
        """Return what verification of `repository` goes by now, to tell whether that has changed."""
        return tuple((rule.mode, *(key.fingerprint for key in rule.keys)) for rule in self._of(repository))

    def recall(
        self, repository: Repository, digests: Sequence[Digest], subject: str, *, raising: bool
    ) -> list[str] | None:
        """Return the warnings that come with what is on this node, or None where it may not be shown.

        `digests` are the artifact's root and manifest.

        Raises:
            SignatureError: it may not, and `raising` says that nobody is going to look for a signature.
        """
        warnings = []
        for rule in self._of(repository):
            if self._is_known(rule, repository, digests):
                self._metrics.observe_signature(rule.mode, SignatureOutcome.VERIFIED)
                continue
            if rule.enforce and not raising:
                return None
            error = SignatureError(
                subject,
                "is on this node, and not known to be signed as node policy wants it",
                "set pullPolicy: IfNotPresent to have its signature looked for",
            )
            warnings.append(self._refuse(rule, error, SignatureOutcome.UNKNOWN))
        return warnings

    def verify(self, client: RepositoryClient, digests: Sequence[Digest], subject: str) -> list[str]:
        """Let pass what is verified, or can be now with what the repository has, and return what to warn of.

        Raises:
            SignatureError: there is no acceptable signature, or it cannot be got, and the rule is enforced.
        """
        warnings = []
        for rule in self._of(client.repository):
            if self._is_known(rule, client.repository, digests):
                self._metrics.observe_signature(rule.mode, SignatureOutcome.VERIFIED)
            elif warning := self._look(rule, client, tuple(dict.fromkeys(digests)), subject):
                warnings.append(warning)
        return warnings

    def _of(self, repository: Repository) -> _Rules:
        return [rule for rule in self._rules() if rule.match.matches(str(repository))]

    def _is_known(self, rule: VerificationRule, repository: Repository, digests: Sequence[Digest]) -> bool:
        return self._records.known(repository, digests, [key.fingerprint for key in rule.keys])

    def _look(self, rule: VerificationRule, client: RepositoryClient, digests: Sequence[Digest], subject: str) -> str:
        search = SignatureSearch(client, rule, time.monotonic() + _SECONDS)
        found = search.run(digests)
        if found is None:
            error = SignatureError(subject, search.cause, _REMEDY)
            return self._refuse(rule, error, search.outcome)
        digest, key = found
        self._records.add(client.repository, digest, key)
        self._metrics.observe_signature(rule.mode, SignatureOutcome.VERIFIED)
        logger.info("signature verified", reference=subject, digest=str(digest), key=key)
        return ""

    def _refuse(self, rule: VerificationRule, error: SignatureError, outcome: SignatureOutcome) -> str:
        """Raise the error where the rule is enforced; else return it as a warning."""
        self._metrics.observe_signature(rule.mode, outcome)
        if rule.enforce:
            raise error
        logger.warning("let through with a warning, as node policy says", cause=error.message, match=rule.match.pattern)
        return error.message


class _ExhaustedError(Exception):
    """No more is fetched for this search."""


class SignatureSearch:
    """One search for a signature by a key of a rule: in the tag that cosign uses, then among the referrers."""

    def __init__(self, client: RepositoryClient, rule: VerificationRule, until: float) -> None:
        """Ask `client`, until a moment of the monotonic clock."""
        self._client = client
        self._keys = rule.keys
        self._until = until
        self._documents = 0
        self._problems: list[UnacceptableError | UnobtainableError] = []

    def run(self, digests: Sequence[Digest]) -> tuple[Digest, str] | None:
        """Return the first digest that has a good signature, and the fingerprint of the key that it is by."""
        try:
            for digest in digests:
                for layer in self._layers(digest):
                    with self._noting():
                        return digest, self._signer(layer, digest)
        except _ExhaustedError:
            pass  # what was wrong with those that were looked at is noted
        return None

    @property
    def outcome(self) -> SignatureOutcome:
        """What to call a search that found nothing."""
        if any(isinstance(problem, UnobtainableError) for problem in self._problems):
            return SignatureOutcome.UNREACHABLE
        return SignatureOutcome.INVALID if self._problems else SignatureOutcome.MISSING

    @property
    def cause(self) -> str:
        """What to tell people of a search that found nothing."""
        if not self._problems:
            return "is not signed, and node policy wants it signed"
        unreachable = [problem for problem in self._problems if isinstance(problem, UnobtainableError)]
        problem = (unreachable or self._problems)[0]
        what = "cannot be got" if unreachable else "is not accepted"
        more = f", and {len(self._problems) - 1} more" if len(self._problems) > 1 else ""
        return f"has no signature that node policy accepts: one {what} ({problem.subject} {problem.cause}{more})"

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Go on after what is wrong with one document; another may be good."""
        try:
            yield
        except (UnobtainableError, UnacceptableError) as error:
            self._problems.append(error)

    def _layers(self, digest: Digest) -> Iterator[Descriptor]:
        """Yield what may be signatures of `digest`, from the place that costs least first."""
        if digest.algorithm == "sha256":  # cosign knows no other
            yield from self._layers_of(f"sha256-{digest.encoded}.sig", None)
        for entry in self._referrers(digest):
            yield from self._layers_of(str(entry.digest), entry.digest)

    def _referrers(self, digest: Digest) -> list[Descriptor]:
        """List what may hold a signature, what says so first."""
        found: list[Descriptor] = []
        with self._noting():
            self._spend()
            found = self._client.referrers(digest)
        typed = [entry for entry in found if entry.artifact_type in _REFERRER_TYPES and _may_sign(entry)]
        return typed + [entry for entry in found if entry.artifact_type in _UNTYPED and _may_sign(entry)]

    def _layers_of(self, identifier: str, expected: Digest | None) -> list[Descriptor]:
        self._spend()
        with self._noting():
            try:
                fetched = self._client.manifest(identifier, limit=_LARGEST_MANIFEST, expected=expected)
            except ArtifactNotFoundError:
                if expected is None:  # the tag is there once something was signed
                    return []
                raise
            parsed = manifests.parse(fetched.content, fetched.media_type, "signature", most_layers=_MOST_LAYERS)
            if isinstance(parsed, Manifest):
                return [layer for layer in parsed.layers if layer.media_type in _SIGNATURE_TYPES]
        return []

    def _signer(self, layer: Descriptor, digest: Digest) -> str:
        subject = f"signature {layer.digest.short}"
        if layer.size > _LARGEST_SIGNATURE:
            raise LimitExceededError(subject, f"has {layer.size} bytes")
        self._spend()
        content = self._client.small_blob(layer)
        try:
            if layer.media_type == signatures.BUNDLE:
                envelope = signatures.bundle(content)
            else:
                envelope = signatures.simple_signing(content, layer.annotations)
            return signatures.signer(envelope, digest, self._keys).fingerprint
        except UnacceptableError as error:
            raise error.about(subject) from error

    def _spend(self) -> None:
        self._documents += 1
        if self._documents > MOST_DOCUMENTS or time.monotonic() > self._until:
            cause = f"took more than {MOST_DOCUMENTS} requests or {_SECONDS:.0f} s, and was given up"
            self._problems.insert(0, LimitExceededError("the search", cause))
            raise _ExhaustedError


def _may_sign(entry: Descriptor) -> bool:
    """Leave out what says itself that it is a statement of another kind, as provenance and bills of materials do."""
    return entry.annotations.get(signatures.PREDICATE_ANNOTATION, signatures.PREDICATE) == signatures.PREDICATE
