"""What a volume's secret gives for a repository."""

import base64
import json
import pickle
from pathlib import Path

import pytest

from csi_oras.errors import UnauthenticatedError
from csi_oras.oci.reference import Reference
from csi_oras.registry.credentials import Credential, from_secret
from csi_oras.telemetry.secrets import Secret
from tests.support.fakes import user
from tests.support.planted import planted


def auth(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def docker_config(auths: object, **members: object) -> dict[str, Secret]:
    return {".dockerconfigjson": Secret(json.dumps({"auths": auths, **members}))}


def found(secret: dict[str, Secret], repository: str = "ghcr.io/acme/model") -> Credential | None:
    return from_secret(secret, Reference.parse(repository).repository)


ENTRIES = [
    auth("me", "a:b c\u00fc"),
    {"username": "me", "password": "a:b c\u00fc"},
    {"username": "other", "password": "other", **auth("me", "a:b c\u00fc")},
    {"username": "me", "password": "a:b c\u00fc", "auth": ""},
    {"username": "me", "password": "a:b c\u00fc", "email": "me@example.com", "auth": None},
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_docker_config_entry_of_either_shape_is_the_credential(entry: dict[str, str]) -> None:
    credential = found(docker_config({"ghcr.io": entry}))
    assert credential is not None
    assert (credential.username, credential.password.reveal()) == ("me", "a:b c\u00fc")


def test_username_and_password_are_a_credential_for_every_registry() -> None:
    secret = {"username": Secret("me"), "password": Secret(planted("right"))}
    assert found(secret) == found(secret, "quay.io/x") == user("me", "right")


def test_no_secret_is_no_credential() -> None:
    assert found({}) is None


KEYS = [
    ("ghcr.io", "ghcr.io/acme/model", True),
    ("https://ghcr.io", "ghcr.io/acme/model", True),
    ("https://ghcr.io/", "ghcr.io/acme/model", True),
    ("http://ghcr.io/v2/", "ghcr.io/acme/model", True),
    ("https://ghcr.io/v1/", "ghcr.io/acme/model", True),
    ("GHCR.io", "ghcr.io/acme/model", True),
    ("ghcr.io:443", "ghcr.io/acme/model", True),
    ("ghcr.io", "ghcr.io:443/acme/model", True),
    ("ghcr.io/acme", "ghcr.io/acme/model", True),
    ("ghcr.io/acme/", "ghcr.io/acme/model", True),
    ("ghcr.io/acme/model", "ghcr.io/acme/model", True),
    ("https://ghcr.io/acme", "ghcr.io/acme/model", True),
    ("ghcr.io/acm", "ghcr.io/acme/model", False),
    ("ghcr.io/acme/mod", "ghcr.io/acme/model", False),
    ("ghcr.io/acme/model/x", "ghcr.io/acme/model", False),
    ("ghcr.io/model", "ghcr.io/acme/model", False),
    ("ghcr.i", "ghcr.io/acme/model", False),
    ("hcr.io", "ghcr.io/acme/model", False),
    ("ghcr.io:5000", "ghcr.io/acme/model", False),
    ("ghcr.io", "ghcr.io:5000/acme/model", False),
    ("ghcr.io", "ghcr.io.evil.example/acme/model", False),
    ("", "ghcr.io/acme/model", False),
    ("/", "ghcr.io/acme/model", False),
    ("https://", "ghcr.io/acme/model", False),
    ("https://index.docker.io/v1/", "library/alpine", True),
    ("https://index.docker.io/v1/", "alpine", True),
    ("docker.io", "docker.io/acme/x", True),
    ("registry-1.docker.io", "acme/x", True),
    ("index.docker.io", "registry-1.docker.io/acme/x", True),
    ("docker.io/acme", "acme/x", True),
    ("docker.io/acme", "other/x", False),
    ("auth.docker.io", "acme/x", False),
    ("127.0.0.1:5000", "127.0.0.1:5000/x", True),
    ("[::1]:5000", "[0:0:0:0:0:0:0:1]:5000/x", True),
]


@pytest.mark.parametrize(("key", "repository", "covers"), KEYS)
def test_docker_config_key_covers_host_and_path_on_a_boundary(key: str, repository: str, *, covers: bool) -> None:
    credential = found(docker_config({key: auth("me", "right")}), repository)
    assert (credential is not None) == covers


def test_docker_config_with_several_keys_gives_the_longest_that_covers() -> None:
    keys = ["https://ghcr.io", "ghcr.io/acme", "ghcr.io/acme/model", "ghcr.io/acme/model-2", "quay.io", "ghcr.io/other"]
    secret = docker_config({key: auth(key.rpartition("/")[2], "p") for key in keys})
    wanted = {
        "ghcr.io/acme/model": "model",
        "ghcr.io/acme/model/sub": "model",
        "ghcr.io/acme/model-2": "model-2",
        "ghcr.io/acme/models": "acme",
        "ghcr.io/x": "ghcr.io",
        "quay.io/acme/model": "quay.io",
    }
    for repository, name in wanted.items():
        credential = found(secret, repository)
        assert credential is not None
        assert credential.username == name


def test_docker_config_without_a_key_that_covers_is_no_credential() -> None:
    assert found(docker_config({"quay.io": auth("me", "right")})) is None


WITHOUT_A_PAIR: list[object] = [
    *({}, {"username": "me"}, {"password": "p"}, {"auth": ""}, {"username": "", "password": "p"}),
    *({"username": 5, "password": "p"}, "text", None, []),
]


@pytest.mark.parametrize("entry", WITHOUT_A_PAIR, ids=str)
def test_docker_config_entry_without_a_pair_is_no_credential(entry: object) -> None:
    assert found(docker_config({"ghcr.io": entry})) is None


@pytest.mark.row("D21")
def test_docker_config_helpers_of_a_tenant_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper, ran = tmp_path / "docker-credential-evil", tmp_path / "ran"
    helper.write_text(f"#!/bin/sh\ntouch {ran}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    secret = docker_config({}, credsStore="evil", credHelpers={"ghcr.io": "evil", "quay.io": str(helper)})
    assert found(secret) is None
    assert not ran.exists()


MALFORMED = [
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "{}",
    '{"auths": null}',
    '{"auths": []}',
    '{"auths": "ghcr.io"}',
    "[" * 100_000,
    "1" * 5_000,
    '{"auths": {}}' + " " * (1 << 20),
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: repr(text[:20]))
def test_docker_config_that_is_none_is_unauthenticated_with_the_remedy(text: str) -> None:
    with pytest.raises(UnauthenticatedError, match="kubectl create secret docker-registry"):
        found({".dockerconfigjson": Secret(text)})


@pytest.mark.parametrize("text", ["not base64!", "bWU6cGFzcw", "\u00e9", "/////w==", "bWU6\ncGFzcw=="], ids=ascii)
def test_docker_config_auth_that_is_no_base64_is_unauthenticated_and_not_quoted(text: str) -> None:
    with pytest.raises(UnauthenticatedError, match="not base64 of user:password") as caught:
        found(docker_config({"ghcr.io": {"auth": text}}))
    assert text not in str(caught.value)


@pytest.mark.parametrize("keys", [["user", "password"], ["username"], ["password"], [".dockercfg"], ["token"]])
def test_secret_of_neither_shape_is_unauthenticated_with_the_remedy(keys: list[str]) -> None:
    with pytest.raises(UnauthenticatedError, match="username and password") as caught:
        found({key: Secret(planted("secret")) for key in keys})
    assert "planted" not in str(caught.value)


def test_credential_shows_its_password_nowhere() -> None:
    credential = user("me", "secret")
    shown = [
        repr(credential),
        str(credential),
        f"{credential}",
        f"{credential.password}",
        f"{credential.password!r:>9}",
    ]
    assert not [text for text in shown if planted("secret") in text]
    with pytest.raises(TypeError):
        pickle.dumps(credential)


def test_keyed_hash_differs_by_user_password_and_key() -> None:
    one = user("me", "a").keyed_hash(b"k")
    others = [user("me", "b").keyed_hash(b"k"), user("you", "a").keyed_hash(b"k"), user("me", "a").keyed_hash(b"l")]
    assert one not in others
    assert user("me", "a", "another source").keyed_hash(b"k") == one
    assert user("ab", "c").keyed_hash(b"k") != user("a", "bc").keyed_hash(b"k")
