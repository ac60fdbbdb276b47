"""Signatures as cosign makes them, byte by byte after its specifications, and false ones as an attacker would.

SIGNATURE_SPEC.md and BUNDLE_SPEC.md of sigstore/cosign, sigstore_bundle.proto, and DSSE's protocol.md.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.artifacts import OCI_INDEX, OCI_MANIFEST, Layer, manifest, sha256
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
SIGN = "https://sigstore.dev/cosign/sign/v1"
IN_TOTO = "application/vnd.in-toto+json"

CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "P-256": (ec.SECP256R1(), hashes.SHA256()),
    "P-384": (ec.SECP384R1(), hashes.SHA384()),
    "P-521": (ec.SECP521R1(), hashes.SHA512()),
}
KINDS = (*CURVES, "RSA", "Ed25519")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Signer:
    """A private key and how cosign signs with it."""

    kind: str
    key: PrivateKey

    @classmethod
    def of(cls, kind: str = "P-256") -> "Signer":
        if kind == "Ed25519":
            return cls(kind, ed25519.Ed25519PrivateKey.generate())
        if kind == "RSA":
            return cls(kind, rsa.generate_private_key(65537, 2048))
        return cls(kind, ec.generate_private_key(CURVES[kind][0]))

    @property
    def public(self) -> bytes:
        """The public key as `cosign public-key` writes it."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def private(self) -> bytes:
        """The private key as `cosign import-key-pair` reads it."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def hint(self) -> str:
        """What a bundle says of the key."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        return base64.b64encode(digest.finalize()).decode()

    def sign(self, message: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(message, ec.ECDSA(algorithm or CURVES[self.kind][1]))


def text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def payload(digest: str, **members: Any) -> bytes:
    """What simple signing signs."""
    critical = {
        "identity": {"docker-reference": "registry.example/t/x"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": {**critical, **members}, "optional": None}).encode()


def statement(digest: str, **members: Any) -> bytes:
    """What a bundle signs."""
    algorithm, _, value = digest.partition(":")
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {algorithm: value}}],
        "predicateType": SIGN,
        **members,
    }
    return json.dumps(document).encode()


def pae(content: bytes, payload_type: str = IN_TOTO) -> bytes:
    """What DSSE signs of a payload."""
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(content), content)


def envelope(signer: Signer, content: bytes, payload_type: str = IN_TOTO, **members: Any) -> dict[str, Any]:
    return {
        "payload": text(content),
        "payloadType": payload_type,
        "signatures": [{"sig": text(signer.sign(pae(content, payload_type)))}],
        **members,
    }


def bundle(signer: Signer, content: bytes, *, dsse: dict[str, Any] | None = None, **members: Any) -> bytes:
    """A sigstore bundle; `dsse` and `members` replace what is honest."""
    document = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": signer.hint}},
        "dsseEnvelope": dsse or envelope(signer, content),
        **members,
    }
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def simple_layer(signer: Signer, content: bytes, signature: str | None = None, **options: Any) -> Layer:
    """A payload with its signature beside it."""
    signature = text(signer.sign(content)) if signature is None else signature
    return Layer(content=content, media_type=SIMPLE_SIGNING, annotations={SIGNATURE: signature}, **options)


def bundle_layer(content: bytes, **options: Any) -> Layer:
    return Layer(content=content, media_type=BUNDLE, **options)


class Registry(Protocol):
    """What both a `Pusher` and a `FakeRegistry` do."""

    def blob(self, repository: str, content: bytes) -> str: ...

    def manifest(self, repository: str, tag: str, content: bytes, media_type: str = ...) -> str: ...


def tag_of(digest: str, suffix: str = ".sig") -> str:
    return digest.replace(":", "-") + suffix


def put_tagged(registry: Registry, repository: str, digest: str, layers: Sequence[Layer]) -> None:
    """Attach signatures under the tag that cosign uses."""
    for content in (b"{}", *(layer.content for layer in layers)):
        registry.blob(repository, content)
    registry.manifest(repository, tag_of(digest), manifest(layers))


def put_referrer(
    registry: Registry, repository: str, digest: str, layers: Sequence[Layer], artifact_type: str = BUNDLE
) -> dict[str, Any]:
    """Put a manifest that refers to another, and return the descriptor that lists it."""
    for content in (b"{}", *(layer.content for layer in layers)):
        registry.blob(repository, content)
    subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 10}
    annotations = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": SIGN}
    content = manifest(layers, artifactType=artifact_type, subject=subject, annotations=annotations)
    registry.manifest(repository, sha256(content), content)
    return {
        "mediaType": OCI_MANIFEST,
        "digest": sha256(content),
        "size": len(content),
        "artifactType": artifact_type,
        "annotations": annotations,
    }


def index(entries: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()


def list_under_tag(registry: Registry, repository: str, digest: str, entries: Sequence[dict[str, Any]]) -> None:
    """List referrers where there is no interface for it (distribution-spec, Referrers Tag Schema)."""
    registry.manifest(repository, tag_of(digest, ""), index(entries), OCI_INDEX)


def list_by_interface(fake: FakeRegistry, repository: str, digest: str, entries: Sequence[dict[str, Any]]) -> None:
    """List referrers as the interface does, in one page; what is added to `entries` later is listed, too."""

    def answer(_request: Request, _answer: Answer) -> Answer:
        return Answer(body=index(entries)).having(Content_Type=OCI_INDEX)

    fake.bend(f"^/v2/{repository}/referrers/{digest}$", answer)


@dataclass(kw_only=True)
class Place:
    """A registry and a place in it for the signatures of a manifest."""

    registry: Registry
    address: str
    kind: str
    """`tag`, `referrers`, or `referrers tag`"""
    _entries: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def signs_bundles(self) -> bool:
        return self.kind != "tag"

    def attach(self, repository: str, digest: str, *layers: Layer) -> None:
        """Attach signatures, in this order, after those that are there."""
        if self.kind == "tag":
            put_tagged(self.registry, repository, digest, layers)
            return
        entries = self._entries.setdefault((repository, digest), [])
        entries += [put_referrer(self.registry, repository, digest, [layer]) for layer in layers]
        if isinstance(self.registry, FakeRegistry) and self.kind == "referrers":
            list_by_interface(self.registry, repository, digest, entries)
        else:
            list_under_tag(self.registry, repository, digest, entries)

    def layer(self, signer: Signer, digest: str) -> Layer:
        """An honest signature in the form that goes here."""
        if self.signs_bundles:
            return bundle_layer(bundle(signer, statement(digest)))
        return simple_layer(signer, payload(digest))

    def sign(self, repository: str, digest: str, signer: Signer) -> None:
        """Sign as cosign does."""
        self.attach(repository, digest, self.layer(signer, digest))
