"""Signatures, payloads and bundles: what is good, and everything that only looks so. Pure, without a registry."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_oras.errors import InvalidConfigError, SignatureError, UnacceptableError
from csi_oras.oci.digest import Digest
from csi_oras.policy import signatures
from csi_oras.policy.keys import PublicKey
from tests.support.cosign import (
    KINDS,
    SIGNATURE,
    Signer,
    bundle,
    envelope,
    pae,
    payload,
    statement,
    text,
)

DIGEST = Digest.of(b"artifact")
OTHER = Digest.of(b"other artifact")
SIGNERS = {kind: Signer.of(kind) for kind in KINDS}
SIGNER, STRANGER = SIGNERS["P-256"], Signer.of()
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def public(signer: Signer) -> PublicKey:
    return PublicKey.parse(signer.public, "key")


def check_simple(content: bytes, signature: str, *keys: PublicKey) -> PublicKey:
    read = signatures.simple_signing(content, {SIGNATURE: signature})
    return signatures.signer(read, DIGEST, keys or (public(SIGNER),))


def check_bundle(content: bytes, *keys: PublicKey) -> PublicKey:
    return signatures.signer(signatures.bundle(content), DIGEST, keys or (public(SIGNER),))


# -- what is good


@pytest.mark.parametrize("kind", KINDS)
def test_simple_signing_is_good_with_every_kind_of_key(kind: str) -> None:
    signer, content = SIGNERS[kind], payload(str(DIGEST))
    found = check_simple(content, text(signer.sign(content)), public(STRANGER), public(signer))
    assert found == public(signer)


@pytest.mark.parametrize("kind", KINDS)
def test_bundle_is_good_with_every_kind_of_key(kind: str) -> None:
    signer = SIGNERS[kind]
    assert check_bundle(bundle(signer, statement(str(DIGEST))), public(STRANGER), public(signer)) == public(signer)


@pytest.mark.parametrize("kind", ["P-384", "P-521"])
def test_older_cosign_with_a_larger_curve_is_good(kind: str) -> None:
    content = payload(str(DIGEST))
    check_simple(content, text(SIGNERS[kind].sign(content, hashes.SHA256())), public(SIGNERS[kind]))


def test_signature_that_a_real_cosign_made_is_good() -> None:
    """Cosign 2.6.5 made these for the manifest of an `oras push`."""
    digest = Digest.parse("sha256:7baf430f60d54f034b9f804e48c1f7d2ed87e3365e1c4338614f972177f16716")
    key = PublicKey.parse(REAL_KEY, "key")
    simple = signatures.simple_signing(REAL_PAYLOAD, {SIGNATURE: REAL_SIGNATURE})
    assert signatures.signer(simple, digest, [key]) == key
    assert signatures.signer(signatures.bundle(REAL_BUNDLE), digest, [key]) == key


def test_digest_of_the_other_algorithm_is_held_against_its_own_member() -> None:
    long = Digest("sha512", "ab" * 64)
    content = bundle(SIGNER, statement(str(long)))
    signatures.signer(signatures.bundle(content), long, [public(SIGNER)])
    with pytest.raises(SignatureError):
        signatures.signer(signatures.bundle(content), Digest("sha256", "ab" * 32), [public(SIGNER)])


def test_one_subject_of_several_is_enough() -> None:
    subjects = [{"name": "x", "digest": {"sha1": "00"}}, {"digest": {"sha256": DIGEST.encoded, "md5": "00"}}]
    check_bundle(bundle(SIGNER, statement(str(DIGEST), subject=subjects)))


def test_high_s_is_the_same_signature() -> None:
    """ECDSA has two spellings of each signature; neither can be made without the key, and we compare none."""
    content = payload(str(DIGEST))
    r, s = decode_dss_signature(SIGNER.sign(content))
    check_simple(content, text(encode_dss_signature(r, P256_ORDER - s)))


# -- E1, E2, E4: what is signed says something else


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(payload(str(OTHER)), id="another digest"),
        pytest.param(payload(f"{DIGEST} "), id="digest with a space"),
        pytest.param(payload(str(DIGEST).upper()), id="digest in capitals"),
        pytest.param(payload(DIGEST.encoded), id="digest without its algorithm"),
        pytest.param(payload(str(DIGEST), type="atomic container signature"), id="another type"),
        pytest.param(payload(str(DIGEST), type="Cosign Container Image Signature"), id="type in capitals"),
        pytest.param(payload(str(DIGEST), type=None), id="no type"),
        pytest.param(payload(str(DIGEST), image=None), id="no image"),
        pytest.param(payload(str(DIGEST), image={"digest": str(DIGEST)}), id="another member"),
        pytest.param(payload(str(DIGEST), image=[str(DIGEST)]), id="image of another type"),
        pytest.param(payload(str(DIGEST)).replace(b'{"critical"', b'{"Critical"', 1), id="critical in capitals"),
        pytest.param(json.dumps({"image": {"docker-manifest-digest": str(DIGEST)}}).encode(), id="parts elsewhere"),
        pytest.param(payload(str(OTHER))[:-1] + b', "critical": ' + payload(str(DIGEST))[13:], id="both digests"),
        pytest.param(str(DIGEST).encode(), id="the digest alone"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"critical": NaN}', id="NaN"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(payload(str(DIGEST)).decode().encode("utf-16"), id="UTF-16"),
    ],
)
def test_good_signature_over_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(UnacceptableError):
        check_simple(content, text(SIGNER.sign(content)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(statement(str(OTHER)), id="another digest"),
        pytest.param(statement(str(DIGEST), predicateType="https://slsa.dev/provenance/v1"), id="provenance"),
        pytest.param(statement(str(DIGEST), predicateType=None), id="no predicate type"),
        pytest.param(statement(str(DIGEST), _type="https://in-toto.io/Statement/v0.1"), id="another statement"),
        pytest.param(statement(str(DIGEST), subject=[]), id="no subject"),
        pytest.param(statement(str(DIGEST), subject=None), id="null subject"),
        pytest.param(statement(str(DIGEST), subject=[{"name": str(DIGEST)}]), id="digest as a name"),
        pytest.param(statement(str(DIGEST), subject=[{"digest": {"sha512": DIGEST.encoded}}]), id="other algorithm"),
        pytest.param(statement(str(DIGEST), subject=[{"digest": {"sha256": DIGEST.encoded.upper()}}]), id="capitals"),
        pytest.param(statement(str(DIGEST), subject=[{"digest": {"sha256": 5}}]), id="digest of another type"),
        pytest.param(payload(str(DIGEST)), id="simple signing in a bundle"),
        pytest.param(b"{}", id="empty"),
    ],
)
def test_good_bundle_over_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(UnacceptableError):
        check_bundle(bundle(SIGNER, content))


def unsigned(**members: Any) -> bytes:
    return bundle(SIGNER, b"", dsse=envelope(SIGNER, statement(str(DIGEST)), **members))


GOOD = envelope(SIGNER, statement(str(DIGEST)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(unsigned(signatures=[]), id="no signatures"),
        pytest.param(unsigned(signatures=None), id="null signatures"),
        pytest.param(unsigned(signatures=[{}]), id="a signature without one"),
        pytest.param(unsigned(signatures=GOOD["signatures"] * 2), id="two signatures"),
        pytest.param(unsigned(payload=text(statement(str(OTHER)))), id="payload swapped"),
        pytest.param(unsigned(payload=text(statement(str(DIGEST)) + b" ")), id="payload with a space more"),
        pytest.param(unsigned(payload=""), id="no payload"),
        pytest.param(unsigned(payloadType="application/json"), id="payload type swapped"),
        pytest.param(
            bundle(SIGNER, b"", dsse=envelope(SIGNER, statement(str(DIGEST)), "text/plain")), id="another payload type"
        ),
        pytest.param(bundle(SIGNER, statement(str(DIGEST)), mediaType=None), id="no media type"),
        pytest.param(
            bundle(SIGNER, statement(str(DIGEST)), mediaType="application/vnd.dev.sigstore.bundle.v9+json"),
            id="a bundle of the future",
        ),
        pytest.param(
            bundle(
                SIGNER,
                b"",
                dsseEnvelope=None,
                messageSignature={"signature": text(SIGNER.sign(DIGEST.encoded.encode()))},
            ),
            id="a signature of a message",
        ),
        pytest.param(bundle(SIGNER, b"", dsseEnvelope=[GOOD]), id="an envelope of another type"),
        pytest.param(bundle(STRANGER, statement(str(DIGEST))), id="another key"),
        pytest.param(
            bundle(
                STRANGER,
                statement(str(DIGEST)),
                verificationMaterial={"publicKey": {"hint": SIGNER.hint, "rawBytes": text(STRANGER.public)}},
            ),
            id="another key, with our hint and its own bytes",
        ),
        pytest.param(bundle(SIGNER, statement(str(DIGEST)))[:-1], id="cut off"),
        pytest.param(b"<html>", id="a page for people"),
        pytest.param(b"{" * 100_000, id="nested"),
    ],
)
def test_bundle_that_only_looks_good_is_refused(content: bytes) -> None:
    with pytest.raises(UnacceptableError):
        check_bundle(content)


def test_signature_over_the_bare_statement_is_none_of_an_envelope() -> None:
    content = statement(str(DIGEST))
    with pytest.raises(SignatureError, match="none of the keys"):
        check_bundle(unsigned(signatures=[{"sig": text(SIGNER.sign(content))}]))


def test_lengths_of_an_envelope_cannot_be_shifted() -> None:
    """DSSE writes lengths, so that type and payload cannot trade bytes."""
    content = statement(str(DIGEST))
    forged = {"payloadType": "application/vnd.in-toto+json", "payload": text(content)}
    signed = SIGNER.sign(pae(b"", "application/vnd.in-toto+json") + content)
    with pytest.raises(SignatureError):
        check_bundle(bundle(SIGNER, b"", dsse={**forged, "signatures": [{"sig": text(signed)}]}))


# -- E8: spellings of a signature


GOOD_PAYLOAD = payload(str(DIGEST))
GOOD_BYTES = SIGNER.sign(GOOD_PAYLOAD)
GOOD_TEXT = text(GOOD_BYTES)


def other_last_bits() -> str:
    """The same bytes in base64 whose unused last bits are set, as a lax decoder takes them."""
    for count in range(3):
        padded = text(GOOD_BYTES + bytes(count))
        if padded.endswith("="):
            last = padded.rstrip("=")[-1]
            alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            return padded.rstrip("=")[:-1] + alphabet[alphabet.index(last) + 1] + "=" * padded.count("=")
    raise AssertionError("never")


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(f"{GOOD_TEXT}\n", id="newline at the end"),
        pytest.param(f"{GOOD_TEXT[:20]}\n{GOOD_TEXT[20:]}", id="newline within"),
        pytest.param(f" {GOOD_TEXT}", id="space"),
        pytest.param(f"{GOOD_TEXT}=", id="padding too much"),
        pytest.param(f"{GOOD_TEXT}{GOOD_TEXT}", id="twice"),
        pytest.param(f"{GOOD_TEXT}\x00", id="NUL"),
        pytest.param(base64.urlsafe_b64encode(b"\xff" * 70).decode(), id="alphabet of URLs"),
        pytest.param(other_last_bits(), id="unused bits"),
        pytest.param(GOOD_BYTES.hex(), id="hexadecimal"),
        pytest.param("\u0417" + GOOD_TEXT[1:], id="no ASCII"),
        pytest.param("", id="empty"),
        pytest.param("A" * 1_000_000, id="a million characters"),
        pytest.param(text(GOOD_BYTES + b"\x00"), id="a byte too many"),
        pytest.param(text(GOOD_BYTES[:-1]), id="a byte too few"),
        pytest.param(text(b"\x30\x81" + GOOD_BYTES[1:]), id="length in long form"),
        pytest.param(text(encode_dss_signature(0, 0)), id="zeros"),
        pytest.param(text(encode_dss_signature(1, P256_ORDER)), id="order of the curve"),
        pytest.param(text(bytes(64)), id="raw zeros"),
        pytest.param(text(b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(GOOD_BYTES))), id="raw r and s"),
    ],
)
def test_signature_in_another_spelling_is_refused(signature: str) -> None:
    check_simple(GOOD_PAYLOAD, GOOD_TEXT)
    with pytest.raises(UnacceptableError):
        check_simple(GOOD_PAYLOAD, signature)


def test_signature_that_is_absent_is_refused() -> None:
    with pytest.raises(UnacceptableError, match="is missing"):
        signatures.simple_signing(GOOD_PAYLOAD, {})


@pytest.mark.parametrize("kind", KINDS)
def test_signature_is_refused_by_every_other_key(kind: str) -> None:
    content = payload(str(DIGEST))
    others = [public(signer) for name, signer in SIGNERS.items() if name != kind] + [public(Signer.of(kind))]
    with pytest.raises(SignatureError, match="none of the keys"):
        check_simple(content, text(SIGNERS[kind].sign(content)), *others)


def test_scheme_that_cosign_does_not_use_is_refused() -> None:
    signer, content = SIGNERS["RSA"], payload(str(DIGEST))
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    for signature in (
        signer.key.sign(content, pss, hashes.SHA256()),
        signer.key.sign(content, padding.PKCS1v15(), hashes.SHA512()),
    ):
        with pytest.raises(SignatureError):
            check_simple(content, text(signature), public(signer))
    with pytest.raises(SignatureError):  # a hash that is not for this curve
        check_simple(content, text(SIGNER.sign(content, hashes.SHA512())))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bit_is_never_good(data: st.DataObject) -> None:
    content, signature = bytearray(GOOD_PAYLOAD), bytearray(GOOD_BYTES)
    changed = data.draw(st.sampled_from([content, signature]))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(UnacceptableError):
        check_simple(bytes(content), text(bytes(signature)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_is_refused_and_never_a_crash(noise: bytes) -> None:
    with pytest.raises(UnacceptableError):
        check_bundle(noise)
    with pytest.raises(UnacceptableError):
        check_simple(noise, text(noise))


# -- keys


def test_key_is_known_by_its_fingerprint_however_it_is_written() -> None:
    spread = SIGNER.public.replace(b"\n", b"\r\n")
    assert PublicKey.parse(spread, "key") == public(SIGNER)
    assert len({public(signer) for signer in (*SIGNERS.values(), STRANGER)}) == len(KINDS) + 1
    assert SIGNER.public.decode()[60:90] not in repr(public(SIGNER))


def curve(name: ec.EllipticCurve) -> bytes:
    return ec.generate_private_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        pytest.param(b"", "exactly one public key", id="empty"),
        pytest.param(b"\xff\x00", "exactly one public key", id="binary"),
        pytest.param(SIGNER.public * 2, "exactly one public key", id="two keys"),
        pytest.param(SIGNER.private, "holds a private key", id="private key"),
        pytest.param(
            b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
            "holds a private key",
            id="private key of cosign",
        ),
        pytest.param(SIGNER.public[:60], "holds no public key", id="cut off"),
        pytest.param(SIGNER.public.replace(b"PUBLIC KEY", b"CERTIFICATE"), "holds no public key", id="certificate"),
        pytest.param(curve(ec.SECP256K1()), "not taken", id="curve of coins"),
        pytest.param(curve(ec.SECP224R1()), "not taken", id="short curve"),
        pytest.param(
            rsa.generate_private_key(65537, 1024)  # noqa: S505 (that is the point)
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "not taken",
            id="short RSA",
        ),
        pytest.param(
            x25519.X25519PrivateKey.generate()
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "not taken",
            id="key that cannot sign",
        ),
    ],
)
def test_file_that_holds_no_key_for_us_is_refused(content: bytes, cause: str) -> None:
    with pytest.raises(InvalidConfigError, match=cause) as caught:
        PublicKey.parse(content, "key file x")
    assert caught.value.message.startswith("key file x: ")
    assert "BEGIN" not in caught.value.message


REAL_KEY = b"""\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEwW82kdAzHpBNZ3Kx1S1akTt+d1h6
bSylXkawA6JXogqXjTeET2uhfRcdIMURFS9o8Z1NHTMO24pNURvkzEIliQ==
-----END PUBLIC KEY-----
"""
REAL_SIGNATURE = "MEQCIFNaDgA7t9CgkRF+ddt4iBmsVI/nGcf8+4kjQfYX1i+qAiAv040gatFDqhg8H74ow5WRigvUypQ7Ms0I/LRuSpDqOQ=="
REAL_PAYLOAD = (
    b'{"critical":{"identity":{"docker-reference":"127.0.0.1:5055/t/x"},"image":{"docker-manifest-digest":'
    b'"sha256:7baf430f60d54f034b9f804e48c1f7d2ed87e3365e1c4338614f972177f16716"},'
    b'"type":"cosign container image signature"},"optional":null}'
)
REAL_BUNDLE = (
    b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":'
    b'"DfNpxWJ97l/xrOvIku0NJIrwY993Gtu6dvhUzRX2dFg="}},"dsseEnvelope":{"payload":"'
    b"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiN2JhZjQzMGY2"
    b"MGQ1NGYwMzRiOWY4MDRlNDhjMWY3ZDJlZDg3ZTMzNjVlMWM0MzM4NjE0Zjk3MjE3N2YxNjcxNiJ9fV0sInByZWRpY2F0ZVR5cGUiOiJodHRwczov"
    b'L3NpZ3N0b3JlLmRldi9jb3NpZ24vc2lnbi92MSJ9","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":'
    b'"MEQCID786NfVJKLr6514rcLqH2yW8oeHi69ThGUlCNQga4sSAiAlI0L+5MkHG2TXaeRNkuwlFmKy5Yz3zZnbirEcqpVafw=="}]}}'
)
