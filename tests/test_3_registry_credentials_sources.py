"""Service accounts' tokens, docker config files of the node, and what is said where a source has nothing."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Reference
from csi_oras.registry.credentials import CredentialKind
from csi_oras.registry.keychain import Found, Keychain, Sources
from csi_oras.registry.service_accounts import ServiceAccountRule
from csi_oras.telemetry.secrets import Secret
from tests.support.fakes import user
from tests.support.planted import MARK, planted

REPOSITORY = Reference.parse("ghcr.io/acme/model").repository


def rules(*pairs: tuple[str, str]) -> Sources:
    return Sources(
        service_accounts=tuple(ServiceAccountRule(match=Glob.parse(match), audience=name) for match, name in pairs)
    )


def of_volume(sources: Sources, tokens: str | None, **secret: str) -> Found:
    secrets = {key: Secret(planted(value) if key == "password" else value) for key, value in secret.items()}
    return Keychain(lambda: sources).of_volume(secrets, Secret(tokens) if tokens else None, REPOSITORY)


# -- service accounts


def test_token_is_the_one_of_the_audience_that_the_first_matching_rule_names() -> None:
    tokens = json.dumps({name: {"token": planted(f"jwt-{name}"), "expirationTimestamp": "x"} for name in ("a", "b")})
    found = of_volume(rules(("ghcr.io/other/**", "a"), ("ghcr.io/acme/**", "b"), ("**", "a")), tokens).credential
    assert found is not None
    assert (found.username, found.password.reveal(), found.kind) == (
        "serviceaccount",
        planted("jwt-b"),
        CredentialKind.SERVICE_ACCOUNT,
    )


NO_TOKENS = [
    *("", "{", "[]", "null", "5", "{}", '{"a": null}', '{"a": []}', '{"a": {}}', '{"a": {"token": 5}}'),
    *('{"a": {"token": ""}}', '{"a": {"token": "planted\\n"}}', '{"a": {"token": "pl\\u00e4nted"}}', "[" * 100_000),
    *('{"b": {"token": "planted"}}', '{"a": {"token": "planted"}}' + " " * (1 << 20)),
]


@pytest.mark.parametrize("tokens", NO_TOKENS, ids=lambda text: ascii(text[:30]))
def test_tokens_without_a_usable_one_are_none_and_never_quoted(tokens: str) -> None:
    found = of_volume(rules(("**", "a")), tokens.replace("planted", MARK))
    assert found.credential is None
    assert "planted" not in str(found)
    assert any(why in found.tried[1] for why in ('none for audience "a"', "not sent by the kubelet"))


def test_secret_of_the_volume_counts_before_the_token() -> None:
    tokens = json.dumps({"a": {"token": planted("jwt")}})
    sources = rules(("**", "a"))
    assert of_volume(sources, tokens, username="me", password="right").credential == user("me", "right")
    elsewhere = json.dumps({"auths": {"quay.io": {"username": "me", "password": planted("right")}}})
    found = of_volume(sources, tokens, **{".dockerconfigjson": elsewhere})
    assert found.credential is not None
    assert found.credential.username == "serviceaccount"
    assert found.tried == ("volume's secret: nothing for it",)


# -- docker config files


def docker_config(path: Path, key: str, password: str, **members: object) -> str:
    path.write_text(json.dumps({"auths": {key: {"username": "node", "password": planted(password)}}, **members}))
    return str(path)


def test_first_file_that_covers_the_repository_counts(tmp_path: Path) -> None:
    files = [
        str(tmp_path / "missing"),
        docker_config(tmp_path / "other", "quay.io", "1"),
        docker_config(tmp_path / "host", "ghcr.io", "2"),
        docker_config(tmp_path / "path", "ghcr.io/acme", "3"),
    ]
    found = Keychain(lambda: Sources(docker_files=tuple(files))).of_node(REPOSITORY)
    assert found.credential == user("node", "2", f"the node's file {tmp_path / 'host'}")
    assert found.tried == (
        "credential providers: not configured",
        f"node's docker configs: {files[0]} cannot be read (No such file or directory)",
        f"node's docker configs: {files[1]} has nothing for it",
    )


def test_file_that_changes_in_place_with_its_old_time_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    keychain = Keychain(lambda: Sources(docker_files=(str(path),)))
    for password in ("one", "two"):
        docker_config(path, "ghcr.io", password)
        os.utime(path, (1, 1))
        found = keychain.of_node(REPOSITORY).credential
        assert found is not None
        assert found.password.reveal() == planted(password)


def test_renewed_is_another_credential_or_none(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    keychain = Keychain(lambda: Sources(docker_files=(docker_config(path, "ghcr.io", "new"),)))
    assert keychain.renewed(REPOSITORY, user("node", "new", "another source")) is None
    renewed = keychain.renewed(REPOSITORY, user("node", "old"))
    assert renewed is not None
    assert renewed.password.reveal() == planted("new")


BROKEN = [b"", b"{", b"[]", b"\xff", b'{"auths": "planted"}', b'{"auths": {"ghcr.io": {"auth": "planted!"}}}']


@pytest.mark.parametrize("content", BROKEN, ids=ascii)
def test_broken_file_is_told_of_and_the_next_one_read(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(content.replace(b"planted", MARK.encode()))
    good = docker_config(tmp_path / "good", "ghcr.io", "right")
    found = Keychain(lambda: Sources(docker_files=(str(broken), good))).of_node(REPOSITORY)
    assert found.credential is not None
    assert str(broken) in found.tried[1]
    assert "planted" not in str(found)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, make_device, make_socket, Path.mkdir, Path.symlink_to])
def test_what_is_no_file_is_told_of_and_the_next_one_read(short_path: Path, make: Callable[..., None]) -> None:
    strange = short_path / "strange"
    make(*([strange, strange] if make is Path.symlink_to else [strange]))
    docker_config(short_path / "..data", "ghcr.io", "right")
    good = short_path / "config.json"
    good.symlink_to("..data")  # as the kubelet mounts secrets
    found = Keychain(lambda: Sources(docker_files=(str(strange), str(good)))).of_node(REPOSITORY)
    assert found.credential is not None
    assert f"{strange} cannot be read (" in found.tried[1]


def test_helpers_are_not_run_and_warned_of_once_for_each_version(tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "config.json"
    helper = tmp_path / "docker-credential-evil"
    helper.write_text(f"#!/bin/sh\ntouch {ran}\n")
    helper.chmod(0o755)
    keychain = Keychain(lambda: Sources(docker_files=(str(path),)))
    with capture_logs() as logs:
        for version in ("1", "22"):
            docker_config(path, "quay.io", version, credHelpers={"ghcr.io": str(helper)}, credsStore="evil")
            assert [keychain.of_node(REPOSITORY).credential for _ in range(3)] == [None] * 3
    assert [line["keys"] for line in logs] == [["credsStore", "credHelpers"]] * 2
    assert not ran.exists()
