"""Public keys of cosign, and whether a signature is by one of them.

The scheme follows from the key alone: nothing that a registry sends chooses an algorithm, a hash or a key. This
is the only home of `cryptography`; it takes 12 MB and is loaded when node policy names a key.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from csi_oras.errors import InvalidConfigError

_CURVES: dict[str, tuple[hashes.HashAlgorithm, ...]] = {
    "secp256r1": (hashes.SHA256(),),
    "secp384r1": (hashes.SHA256(), hashes.SHA384()),
    "secp521r1": (hashes.SHA256(), hashes.SHA512()),
}
"""Hashes by curve: cosign used SHA-256 with every key, and uses the curve's own since 2.5."""
_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 8192

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with; `fingerprint` is the SHA-256 of its SubjectPublicKeyInfo."""

    fingerprint: str
    _key: _Key = field(repr=False, compare=False)

    @classmethod
    def parse(cls, content: bytes, subject: str) -> Self:
        """Read the one public key of a PEM file.

        Raises:
            InvalidConfigError: it holds none, more than one, or one that cosign does not use.
        """
        if b"PRIVATE KEY" in content:
            raise InvalidConfigError(subject, "holds a private key", "name the public one (cosign public-key)")
        if content.count(b"-----BEGIN ") != 1:
            raise InvalidConfigError(subject, "does not hold exactly one public key in PEM", "give each a file")
        try:
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidConfigError(subject, "holds no public key in PEM", "make it with cosign public-key") from None
        if not isinstance(key, _Key) or not _is_used_by_cosign(key):
            raise InvalidConfigError(
                subject, "holds a key that is not taken", "use ECDSA (P-256, P-384, P-521), RSA from 2048 bits, Ed25519"
            )
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(spki).hexdigest(), key)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Say whether `signature` is this key's over `message`."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePublicKey):
            return any(_is_ecdsa(key, signature, message, algorithm) for algorithm in _CURVES[key.curve.name])
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def _is_used_by_cosign(key: _Key) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    return not isinstance(key, rsa.RSAPublicKey) or _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS


def _is_ecdsa(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm
) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True
