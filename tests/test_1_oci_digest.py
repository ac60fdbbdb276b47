"""Digests: what is none never becomes a path, a URL or a header."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.errors import CsiOrasError, HostileContentError, UnsupportedContentError
from csi_oras.oci.digest import Digest

HEX = "0123456789abcdef" * 4

NO_DIGESTS = {
    "traversal": "../../../../../../../../canary/preload",
    "traversal behind the algorithm": "sha256:../../../../canary/x",
    "traversal of the right length": "sha256:" + "../" * 21 + "x",
    "algorithm alone": "sha256",
    "colon alone": ":",
    "nothing encoded": "sha256:",
    "no hexadecimal": "sha256:zz",
    "no hexadecimal of the right length": "sha256:" + "g" * 64,
    "empty": "",
    "63 digits": "sha256:" + HEX[1:],
    "65 digits": "sha256:0" + HEX,
    "upper-case digits": "sha256:" + HEX.upper(),
    "one upper-case digit": "sha256:A" + HEX[1:],
    "upper-case algorithm": "SHA256:" + HEX,
    "sha512 of 64 digits": "sha512:" + HEX,
    "sha256 of 128 digits": "sha256:" + HEX * 2,
    "CR LF and a header": f"sha256:{HEX}\r\nHost: x",
    "newline at the end": f"sha256:{HEX}\n",
    "percent-encoded traversal": "sha256:..%2f" + HEX[5:],
    "query": f"sha256:{HEX}?x",
    "fragment": f"sha256:{HEX}#x",
    "second digest": f"sha256:{HEX}@sha256:{HEX}",
    "two colons": f"sha256::{HEX}",
    "space first": f" sha256:{HEX}",
    "NUL": f"sha256:{HEX[1:]}\0",
    "full-width digits": "sha256:" + "\uff11" * 64,
    "Arabic digits": "sha256:" + "\u0661" * 64,
    "null": None,
    "number": 5,
    "true": True,
    "list": [f"sha256:{HEX}"],
    "object": {"sha256": HEX},
    "bytes": f"sha256:{HEX}".encode(),
}
UNSUPPORTED = ["md5", "sha1", "sha384", "blake3", "multihash+base58", "sha256+b64u", "sha3-256", "new", "file_digest"]


@pytest.mark.parametrize("text", NO_DIGESTS.values(), ids=NO_DIGESTS.keys())
def test_digest_that_is_none_is_hostile(text: object) -> None:
    with pytest.raises(HostileContentError) as caught:
        Digest.parse(text)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("algorithm", UNSUPPORTED)
def test_digest_of_another_algorithm_is_unsupported(algorithm: str) -> None:
    with pytest.raises(UnsupportedContentError, match="is not supported; use sha256"):
        Digest.parse(f"{algorithm}:{HEX}")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_of_content_is_what_hashlib_says(algorithm: str) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, b'alpha').hexdigest()}"
    digest = Digest.parse(text)
    hasher = digest.hasher()
    hasher.update(b"alpha")
    assert hasher.hexdigest() == digest.encoded
    assert str(digest) == text
    assert digest.short == digest.encoded[:12]


def test_digest_of_is_sha256() -> None:
    assert Digest.of(b"") == Digest.parse("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@given(st.text() | st.from_regex(r"sha(256|512):[0-9a-f]{60,130}\s?", fullmatch=True))
def test_digest_that_is_taken_is_safe_as_a_path_component_and_unchanged(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except CsiOrasError:
        return
    assert str(digest) == text
    assert set(digest.encoded) <= set("0123456789abcdef")
    assert len(digest.encoded) == {"sha256": 64, "sha512": 128}[digest.algorithm]
