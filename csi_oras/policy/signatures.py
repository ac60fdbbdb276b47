"""Signatures as cosign makes them, and what they say: pure, without a registry.

Two forms, with one meaning, "this key vouches for the manifest with this digest": simple signing (cosign's
SIGNATURE_SPEC.md), and an in-toto statement in a DSSE envelope in a sigstore bundle (BUNDLE_SPEC.md). What is
signed is read only after the signature was found good. Certificates, hints, timestamps and the transparency log
that come along are never looked at: only the keys of node policy vouch.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from csi_oras.errors import HostileContentError, SignatureError
from csi_oras.oci import document as json
from csi_oras.oci.digest import Digest
from csi_oras.oci.glob import Glob

if TYPE_CHECKING:
    from csi_oras.policy.keys import PublicKey  # loaded where there are keys only

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""The artifact type of cosign's first, experimental way to use referrers; its layers are simple signing."""
PREDICATE = "https://sigstore.dev/cosign/sign/v1"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"

_SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
_SIMPLE_TYPE = "cosign container image signature"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_LONGEST_SIGNATURE = 2 << 10
"""Characters of base64; 8192 bits of RSA need 1368."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRule:
    """Whose signature the artifacts of some repositories must carry; one by one of `keys` is enough."""

    match: Glob
    enforce: bool
    keys: tuple["PublicKey", ...]

    @property
    def mode(self) -> str:
        """The mode as the policy file spells it."""
        return "enforce" if self.enforce else "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A signature, the very bytes it is over, and how to read from `payload` which manifests it vouches for."""

    signature: bytes
    message: bytes
    payload: bytes
    vouches: Callable[[dict[str, Any], Digest], bool]


def simple_signing(payload: bytes, annotations: Mapping[str, str]) -> Envelope:
    """Read a signature in the form of a payload, with the signature beside it in the layer's annotations.

    Raises:
        HostileContentError: there is none, or it is not base64.
    """
    signature = _decoded(annotations.get(_SIGNATURE_ANNOTATION, ""), "signature")
    return Envelope(signature=signature, message=payload, payload=payload, vouches=_simple_vouches)


def bundle(content: bytes) -> Envelope:
    """Read a signature in the form of a sigstore bundle; the caller has limited its size.

    Raises:
        UnacceptableError: it is no bundle of an envelope with one signature over an in-toto statement.
    """
    document = json.parse_object(content, "bundle")
    if json.text(document, "mediaType", "bundle", "") != BUNDLE:
        raise HostileContentError("bundle", "is of another type than its layer says")
    envelope = json.optional_object(document, "dsseEnvelope", "bundle")
    if envelope is None or json.text(envelope, "payloadType", "envelope", "") != _PAYLOAD_TYPE:
        raise HostileContentError("bundle", "holds no in-toto statement")
    signatures = json.objects(envelope, "signatures", "envelope")
    if len(signatures) != 1:  # sigstore_bundle.proto: exactly one
        raise HostileContentError("envelope", f"has {len(signatures)} signatures instead of one")
    payload = _decoded(json.text(envelope, "payload", "envelope"), "payload", len(content))
    return Envelope(
        signature=_decoded(json.text(signatures[0], "sig", "envelope"), "signature"),
        message=b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload),
        payload=payload,
        vouches=_statement_vouches,
    )


def signer(envelope: Envelope, digest: Digest, keys: Sequence["PublicKey"]) -> "PublicKey":
    """Return the key that vouches for the manifest with `digest`.

    Raises:
        SignatureError: the signature is by no key of these, or not for this manifest.
        UnacceptableError: what is signed cannot be read.
    """
    key = next((key for key in keys if key.verifies(envelope.signature, envelope.message)), None)
    if key is None:
        raise SignatureError("signature", "is by none of the keys of node policy")
    if not envelope.vouches(json.parse_object(envelope.payload, "signed payload"), digest):
        raise SignatureError("signature", "is for something else")
    return key


def _simple_vouches(payload: dict[str, Any], digest: Digest) -> bool:
    critical = json.optional_object(payload, "critical", "signed payload") or {}
    image = json.optional_object(critical, "image", "signed payload") or {}
    return critical.get("type") == _SIMPLE_TYPE and image.get("docker-manifest-digest") == str(digest)


def _statement_vouches(statement: dict[str, Any], digest: Digest) -> bool:
    if statement.get("_type") != _STATEMENT or statement.get("predicateType") != PREDICATE:
        return False
    subjects = json.objects(statement, "subject", "signed statement")
    digests = [json.texts(subject, "digest", "signed statement") for subject in subjects]
    return any(found.get(digest.algorithm) == digest.encoded for found in digests)


def _decoded(text: str, what: str, longest: int = _LONGEST_SIGNATURE) -> bytes:
    """Decode base64 in its one canonical spelling (RFC 4648, 3.5)."""
    try:
        decoded = base64.b64decode(text, validate=True) if len(text) <= longest else b""
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != text:
        raise HostileContentError(what, "is missing, or is not base64")
    return decoded
