"""The JSON that manifests are made of: bounded, strict, and never a crash."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_oras.errors import (
    BadResponseError,
    CsiOrasError,
    HostileContentError,
)
from csi_oras.oci.manifest import Index, Manifest, parse
from tests.support.artifacts import OCI_MANIFEST, Layer, manifest

SUBJECT = "reg.example/t/x:v1"
LAYER = Layer(content=b"alpha", title="a")


def read(content: bytes, declared: str = "") -> Manifest | Index:
    return parse(content, declared, SUBJECT, most_layers=10)


def claiming(**claims: Any) -> bytes:
    """A manifest whose one layer claims something else."""
    return manifest([Layer(content=b"alpha", title="a", claims=claims)])


NO_JSON = [
    *(b"", b"<html>log in</html>", b"\x1f\x8b\x08", b"{", b"{}{}", b"{'a':1}", b'{"a":1,}'),
    *(b"1" * 100_000, b" " * (5 << 20), b"\xff\xfe{}"),
]


@pytest.mark.parametrize("content", NO_JSON, ids=lambda content: repr(content[:12]))
def test_content_that_is_no_json_is_a_bad_response(content: bytes) -> None:
    with pytest.raises(BadResponseError, match="is not JSON") as caught:
        read(content, OCI_MANIFEST)
    assert caught.value.message.isprintable()


HOSTILE_JSON = {
    "a million brackets": b"[" * 1_000_000,
    "a million objects": b'{"a":' * 1_000_000,
    "brackets in an annotation": b'{"annotations":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"schemaVersion":NaN}',
    "Infinity": b'{"schemaVersion":-Infinity}',
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"5",
    "a member twice": b'{"layers":[],"layers":[]}',
    "a member twice in a layer": claiming(size=5)[:-2].replace(b'"size"', b'"size": 1, "size"') + b"]}",
}


@pytest.mark.parametrize("content", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_json_that_no_honest_tool_writes_is_hostile(content: bytes) -> None:
    with pytest.raises(HostileContentError):
        read(content, OCI_MANIFEST)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_json_in_another_encoding_than_utf_8_is_refused(encoding: str) -> None:
    with pytest.raises(BadResponseError):
        read(manifest([LAYER]).decode().encode(encoding))


def test_integer_of_a_hundred_thousand_digits_is_refused_without_being_computed() -> None:
    with pytest.raises(CsiOrasError):
        read(claiming(size=424242).replace(b"424242", b"9" * 100_000))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["mediaType", "config", "layers", "manifests", "schemaVersion", "artifactType", "annotations"]
)
INNER = st.sampled_from(["mediaType", "digest", "size", "annotations", "platform", "artifactType"])


@given(MEMBERS, INNER, JSON)
def test_any_value_anywhere_in_a_manifest_is_read_or_refused_and_never_a_crash(
    member: str, inner: str, value: object
) -> None:
    document = json.loads(manifest([LAYER]))
    for changed in ({**document, member: value}, {**document, "layers": [{**LAYER.descriptor(), inner: value}]}):
        try:
            read(json.dumps(changed).encode(), OCI_MANIFEST)
        except CsiOrasError as error:
            assert error.message.startswith(SUBJECT)  # noqa: PT017 (refusing is one of two good outcomes)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_never_a_crash(content: bytes) -> None:
    with pytest.raises(CsiOrasError, match=SUBJECT):
        read(content, OCI_MANIFEST)
