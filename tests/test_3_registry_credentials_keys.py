"""Which repositories a key stands for, and the entries that hold an identity token."""

import json

import pytest

from csi_oras.oci.reference import Reference
from csi_oras.registry.coverage import Pattern, closest
from csi_oras.registry.credentials import Credential, CredentialKind, from_secret
from csi_oras.telemetry.secrets import Secret
from tests.support.planted import MARK

COVERAGE = [
    ("*.example.com", "reg.example.com/x", True),
    ("*.example.com", "example.com/x", False),
    ("*.example.com", "a.reg.example.com/x", False),
    ("*.*.example.com", "a.reg.example.com/x", True),
    ("reg*.example.com", "reg-eu.example.com/x", True),
    ("reg*.example.com", "eu-reg.example.com/x", False),
    ("*.example.com", "reg.example.com:5000/x", False),
    ("*.example.com:5000", "reg.example.com:5000/x", True),
    ("*.example.com:5000", "reg.example.com/x", False),
    ("*.example.com:443", "reg.example.com/x", True),
    ("*.*", "localhost.x:5000/x", False),
    ("*", "localhost:5000/x", False),
    ("*.EXAMPLE.com", "reg.example.com/x", True),
    ("https://*.example.com/v2/", "reg.example.com/x", True),
    ("*.example.com/acme", "reg.example.com/acme/x", True),
    ("*.example.com/acme", "reg.example.com/acme-labs/x", False),
    ("*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.eu-west-1.amazonaws.com/x", True),
    ("*.com", "reg.example.com/x", False),
    ("example.com/*", "example.com/x", False),
    ("[*]:5000", "[::1]:5000/x", False),
    ("regxexample.com", "reg.example.com/x", False),
]


@pytest.mark.parametrize(("key", "repository", "covers"), COVERAGE)
def test_wildcard_stands_for_one_label_of_a_host_and_never_for_a_port_or_path(
    key: str, repository: str, *, covers: bool
) -> None:
    assert Pattern.parse(key).covers(Reference.parse(repository).repository) == covers


def test_closest_key_is_the_host_by_name_then_the_longest_path() -> None:
    keys = ["*.example.com", "*.example.com/acme/model", "reg.example.com", "reg.example.com/acme", "r*.example.com"]
    wanted = {
        "reg.example.com/acme/model": "reg.example.com/acme",
        "reg.example.com/x": "reg.example.com",
        "other.example.com/acme/model": "*.example.com/acme/model",
        "other.example.com/x": "*.example.com",
        "rest.example.com/x": "r*.example.com",
        "example.com/x": None,
    }
    entries = [(key, key) for key in keys]
    assert {name: closest(entries, Reference.parse(name).repository) for name in wanted} == wanted


def found(entry: object) -> Credential | None:
    secret = {".dockerconfigjson": Secret(json.dumps({"auths": {"*.example.com": entry}}).replace("planted", MARK))}
    return from_secret(secret, Reference.parse("reg.example.com/x").repository)


IDENTITIES = [
    {"identitytoken": "planted"},
    {"identitytoken": "planted", "auth": "MDAwMDAwMDA6"},
    {"identitytoken": "planted", "auth": "not base64"},
    {"username": "<token>", "password": "planted"},
    {"auth": "PHRva2VuPjpwbGFudGVk"},
]


@pytest.mark.parametrize("entry", IDENTITIES, ids=str)
def test_entry_with_an_identity_token_is_one(entry: dict[str, str]) -> None:
    credential = found(entry)
    assert credential is not None
    assert credential.kind is CredentialKind.IDENTITY_TOKEN
    assert credential.password.reveal() in (MARK, "planted")
    assert "planted" not in repr(credential)


@pytest.mark.parametrize("entry", [{"identitytoken": ""}, {"identitytoken": 5}, {"username": "<token>"}], ids=str)
def test_entry_without_the_token_itself_is_no_credential(entry: object) -> None:
    assert found(entry) is None
