"""`csi-oras doctor REF`: which credential, host and mirror a reference would use, and why one fails."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_oras.demo.distribution import held_port
from tests.support.artifacts import Layer, Pusher
from tests.support.certificates import Authority, server_context
from tests.support.cosign import Place, Signer
from tests.support.doctoring import Examine, doctor, mirror
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Bend, raw, stalled, status
from tests.support.hosts import CertsD
from tests.support.planted import planted
from tests.support.private_registry import PASSWORD, USER, private_registry
from tests.support.providers import FakeProvider
from tests.support.signing import push, rule
from tests.support.token_registry import token_registry

pytest_plugins = ["tests.support.doctor_fixtures", "tests.support.fake_fixtures"]

_LAYERS = [Layer(content=b"hello", title="a.txt")]
_RIGHT, _WRONG = planted("right"), planted("wrong")
_OTHER = [Layer(content=b"other", title="a.txt")]


def docker_config(path: Path, registry: str, password: str) -> Path:
    path.write_text(json.dumps({"auths": {registry: {"username": USER, "password": password}}}))
    return path


# -- credentials


@pytest.mark.needs("registry")
def test_credential_of_the_node_is_named_by_its_file_and_used(examine: Examine, tmp_path: Path) -> None:
    with token_registry(tmp_path / "registry") as private:
        private.tokens.let_read(USER, _RIGHT, "team/model")
        reference = private.pusher("team/model").artifact("team/model", _LAYERS)
        right = docker_config(tmp_path / "right.json", private.address, _RIGHT)
        wrong = docker_config(tmp_path / "wrong.json", private.address, _WRONG)
        found = examine(reference, f"credentials: {{dockerConfig: [{right}]}}")
        assert (found.code, found.failed) == (0, [])
        assert f"the node's file {right}" in found.said("credential")
        told = found.document["reference"]
        assert told["credential"]["source"] == f"the node's file {right}"
        assert (told["servedBy"], told["hostsFile"]) == (f"http://{private.address}/v2", None)
        assert re.fullmatch("sha256:[0-9a-f]{64}", told["digest"])
        refused = examine(reference, f"credentials: {{dockerConfig: [{wrong}]}}")
        assert refused.failed == ["registry", "artifact"]
        assert f"refused the credential from the node's file {wrong}" in refused.said("registry")
        nobody = examine(reference)
        assert nobody.failed == ["registry", "artifact"]
        assert "gives no anonymous token" in nobody.said("registry")
        assert nobody.document["reference"]["credential"] == {
            "source": None,
            "tried": [
                "volume's secret: none given here (--registry-config)",
                "credential providers: not configured",
                "node's docker configs: not configured",
            ],
        }
        other = examine(reference.replace("team/model", "team/other"), f"credentials: {{dockerConfig: [{right}]}}")
        assert other.failed == ["registry", "artifact"]  # this user may not read that one


@pytest.mark.needs("registry")
def test_credential_of_the_command_line_is_used_alone(examine: Examine, tmp_path: Path) -> None:
    with private_registry(tmp_path / "registry") as (registry, owner):
        reference = owner.artifact("team/model", _LAYERS)
        login = ("--username", USER, "--password-stdin")
        right = examine(reference, "", *login, stdin=f"{PASSWORD}\n")
        assert (right.code, right.document["reference"]["credential"]["source"]) == (0, "the command line")
        wrong = examine(reference, "", *login, stdin=f"{_WRONG}\n")
        assert "refuses the credential from the command line" in wrong.said("registry")
        file = docker_config(tmp_path / "config.json", registry.address, PASSWORD)
        told = examine(reference, "", "--registry-config", str(file)).document["reference"]
        assert told["credential"] == {"source": f"the file {file}", "tried": []}
        assert "wants a credential" in examine(reference).said("registry")


def test_credential_provider_is_run_and_named(fake: FakeRegistry, examine: Examine, tmp_path: Path) -> None:
    fake.require_basic(USER, _RIGHT)
    reference = fake.artifact("t/x", _LAYERS)
    provider = FakeProvider(tmp_path / "providers")
    provider.configure(fake.address)
    provider.answers({fake.address: (USER, _RIGHT)})
    found = examine(reference, f"credentials: {{{provider.policy}}}")
    assert found.code == 0
    assert found.document["reference"]["credential"]["source"] == f"credential provider {provider.name}"
    provider.behave("sys.exit(3)")
    broken = examine(reference, f"credentials: {{{provider.policy}}}")
    assert "failed with exit code 3" in broken.said("credential")
    assert broken.failed == ["registry", "artifact"]


def test_docker_config_that_cannot_be_read_is_told_beside_what_came_of_it(
    fake: FakeRegistry, examine: Examine, tmp_path: Path
) -> None:
    found = examine(fake.artifact("t/x", _LAYERS), f"credentials: {{dockerConfig: [{tmp_path}]}}")
    assert found.failed == ["docker configs"]
    assert "Is a directory" in found.said("docker configs")
    assert found.document["reference"]["servedBy"]


def test_service_account_rule_is_told_of(fake: FakeRegistry, examine: Examine) -> None:
    policy = "credentials: {serviceAccountTokens: [{match: '**', audience: registry.example}]}"
    found = examine(fake.artifact("t/x", _LAYERS), policy)
    assert (found.code, found.states("credential")) == (0, ["warning", "ok"])
    assert "registry.example" in found.said("credential")


# -- hosts


def test_dead_mirror_is_a_warning_and_the_registry_serves(fake: FakeRegistry, examine: Examine, certs: CertsD) -> None:
    with held_port() as port:
        reference, dead = fake.artifact("t/x", _LAYERS), f"http://127.0.0.1:{port}"
        file = certs.write(fake.address, f'server = "http://{fake.address}"\n' + mirror(dead))
        found = examine(reference)
    assert (found.code, found.states("mirror"), found.states("registry")) == (0, ["warning"], ["ok"])
    assert "cannot be reached (Connection refused)" in found.said("mirror")
    assert f"http://{fake.address} serves instead" in found.said("mirror")
    assert str(file) in found.said("hosts")
    told = found.document["reference"]
    assert (told["hostsFile"], told["servedBy"]) == (str(file), f"http://{fake.address}/v2")
    assert [(host["url"], host["mirror"], host["state"]) for host in told["hosts"]] == [
        (f"{dead}/v2", True, "warning"),
        (f"http://{fake.address}/v2", False, "ok"),
    ]


def test_mirror_serves_and_is_never_shown_the_credential(
    fake: FakeRegistry, examine: Examine, certs: CertsD, tmp_path: Path
) -> None:
    fake.require_basic(USER, _RIGHT)
    with FakeRegistry() as other:
        other.artifact("t/x", _LAYERS)
        reference = fake.artifact("t/x", _LAYERS)
        certs.write(fake.address, f'server = "http://{fake.address}"\n' + mirror(other.url()))
        login = docker_config(tmp_path / "config.json", fake.address, _RIGHT)
        found = examine(reference, "", "--registry-config", str(login))
        assert (found.code, found.states("mirror"), found.states("registry")) == (0, ["ok"], ["ok"])
        assert found.document["reference"]["servedBy"] == f"{other.url()}v2"
        assert other.credentials_seen() == []


def test_mirror_that_lags_behind_is_a_warning(fake: FakeRegistry, examine: Examine, certs: CertsD) -> None:
    with FakeRegistry() as old:
        old.artifact("t/x", _OTHER)
        reference = fake.artifact("t/x", _LAYERS)
        certs.write(fake.address, f'server = "http://{fake.address}"\n' + mirror(old.url()))
        found = examine(reference)
        assert (found.code, found.states("registry")) == (0, ["warning"])
        assert "has another one than" in found.said("registry")


def test_mirror_that_may_only_pull_is_asked_by_digest(fake: FakeRegistry, examine: Examine, certs: CertsD) -> None:
    with FakeRegistry() as pulled, FakeRegistry() as pushed:
        for registry in (fake, pulled, pushed):
            reference = registry.artifact("t/x", _LAYERS)
        reference = reference.replace(pushed.address, fake.address)
        hosts = mirror(pulled.url(), '"pull"') + mirror(pushed.url(), '"push"')
        certs.write(fake.address, f'server = "http://{fake.address}"\n' + hosts)
        found = examine(reference)
        assert (found.code, found.states("mirror"), found.states("registry")) == (0, ["ok", "ok"], ["ok"])
        told = found.document["reference"]
        assert (told["resolvedBy"], told["servedBy"]) == (f"http://{fake.address}/v2", f"http://{pulled.address}/v2")
        assert [request.path.partition("/manifests/")[2][:7] for request in pulled.seen("/manifests/")] == ["sha256:"]
        assert pushed.seen() == []
        assert "is not asked for this" in found.said("mirror")


def test_hosts_file_that_is_broken_fails(fake: FakeRegistry, examine: Examine, certs: CertsD) -> None:
    certs.write(fake.address, "server = ")
    found = examine(fake.artifact("t/x", _LAYERS))
    assert found.failed == ["hosts"]
    assert "hosts.toml: is not TOML" in found.said("hosts")
    assert fake.seen() == []


def test_host_that_cannot_be_found_fails(examine: Examine) -> None:
    found = examine("registry.invalid/t/x:v1")
    assert found.failed == ["registry", "artifact"]
    assert "https://registry.invalid/v2" in found.said("registry")
    assert "cannot be reached" in found.said("registry")


def test_certificate_that_is_not_trusted_fails_with_a_remedy(examine: Examine, certs: CertsD, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with FakeRegistry(server_context(authority.pair("server"))) as tls:
        reference = tls.artifact("t/x", _LAYERS)
        certs.write(tls.address, f'server = "{tls.url()}"')
        assert "its certificate is not trusted" in examine(reference).said("registry")
        certs.write(tls.address, f'server = "{tls.url()}"\nca = "{authority.ca}"')
        assert examine(reference).code == 0
        (certs.directory(tls.address) / "hosts.toml").unlink()  # as docker has them, without one
        shutil.copy(authority.ca, certs.directory(tls.address) / "ca.crt")
        told = examine(reference).document["reference"]
        assert told["hostsFile"] == str(certs.directory(tls.address))
        assert told["servedBy"]


@pytest.mark.parametrize(
    ("bend", "words"),
    [
        (status(403), "does not allow it to an anonymous user"),
        (status(404), "does not have it -> check the reference"),
        (status(429, Retry_After="3600"), "answers with status 429"),
        (status(500), "answers with status 500"),
        (status(302, Location="http://169.254.169.254/"), "sends us on to a blob at a link-local address"),
        (raw(b"\x1b[31mnonsense\r\n\r\n"), "cannot be reached"),
    ],
    ids=["403", "404", "429", "500", "redirect", "nonsense"],
)
def test_refusal_is_told_in_a_sentence(fake: FakeRegistry, examine: Examine, bend: Bend, words: str) -> None:
    reference = fake.artifact("t/x", _LAYERS)
    fake.bend("/manifests/", bend)
    found = examine(reference)
    assert found.failed == ["registry", "artifact"]
    assert words in found.said("registry")
    assert fake.count("/manifests/") == 1  # a doctor does not insist


def test_registry_without_heads_is_asked_for_the_manifest_and_its_words_come_clean(
    fake: FakeRegistry, examine: Examine
) -> None:
    reference = fake.artifact("t/x", _LAYERS)
    fake.bend("/manifests/", status(405), method="HEAD")
    assert examine(reference).code == 0
    said = {"errors": [{"code": "DENIED", "message": "\x1b[31mgo\u202e away [bold]x[/bold]\n"}]}
    fake.bend("/manifests/", status(403, json.dumps(said).encode()), method="GET")
    ended = doctor(reference)
    assert ended.returncode == 1
    assert "\x1b" not in ended.stdout
    assert "\u202e" not in ended.stdout
    assert r'"\x1b[31mgo\u202e away [bold]x[/bold]\n"' in ended.stdout


def test_registry_that_never_answers_costs_seconds(fake: FakeRegistry, examine: Examine) -> None:
    reference = fake.artifact("t/x", _LAYERS)
    fake.bend("/manifests/", status(405), method="HEAD")
    fake.bend("/manifests/", stalled(0), method="GET")
    began = time.monotonic()
    found = examine(reference)
    assert time.monotonic() - began < 60  # and not the minutes of a pull
    assert found.failed == ["registry", "artifact"]


# -- policy, signatures, the store


def test_repository_that_policy_forbids_is_not_asked_for(fake: FakeRegistry, examine: Examine) -> None:
    reference = fake.artifact("t/x", _LAYERS)
    denied = examine(reference, "registries: {deny: ['*/t/**']}")
    assert denied.failed == ["policy"]
    assert 'registries.deny "*/t/**"' in denied.said("policy")
    unnamed = examine(reference, "registries: {allow: ['registry.example/**']}")
    assert "no rule of registries.allow names it" in unnamed.said("policy")
    assert unnamed.document["reference"]["policy"] == {"allowed": False, "rule": None}
    assert fake.seen() == []
    allowed = examine(reference, "registries: {allow: ['registry.example/**', '*/t/**']}")
    assert allowed.document["reference"]["policy"] == {"allowed": True, "rule": 'registries.allow "*/t/**"'}


def test_policy_file_that_is_wrong_ends_the_examination(fake: FakeRegistry, examine: Examine) -> None:
    found = examine(fake.artifact("t/x", _LAYERS), "registries: {alow: []}")
    assert found.failed == ["configuration"]
    assert "reference" not in found.document
    assert fake.seen() == []


def test_signature_that_policy_wants_is_looked_for(fake: FakeRegistry, examine: Examine, tmp_path: Path) -> None:
    artifact = push(Place(registry=fake, address=fake.address, kind="tag"), "x")
    signer, stranger = Signer.of("P-256"), Signer.of("P-256")
    key = tmp_path / "cosign.pub"
    key.write_bytes(signer.public)
    enforced, warned = (f"verification:\n{rule('**', key, mode=mode)}" for mode in ("enforce", "warn"))
    unsigned = examine(artifact.reference, enforced)
    assert unsigned.failed == ["signature"]
    assert "is not signed" in unsigned.said("signature")
    assert examine(artifact.reference, warned).states("signature") == ["warning"]
    artifact.sign(stranger)
    assert "has no signature that node policy accepts" in examine(artifact.reference, enforced).said("signature")
    artifact.sign(signer)
    signed = examine(artifact.reference, enforced)
    assert signed.code == 0
    assert f"is signed by the key in {key}" in signed.said("signature")
    (told,) = signed.document["reference"]["verification"]
    assert (told["match"], told["mode"], told["state"], told["keyFile"]) == ("**", "enforce", "ok", str(key))


@pytest.mark.needs("registry")
def test_store_is_looked_into_and_not_made(
    pusher: Pusher, repository: str, examine: Examine, tmp_path: Path, pull: Callable[[str], None]
) -> None:
    reference = pusher.artifact(repository, _LAYERS)
    assert examine(reference).document["reference"]["store"] == {"present": False, "digest": None}
    assert not (tmp_path / "state").exists()
    pull(reference)
    found = examine(reference)
    assert found.document["reference"]["store"] == {"present": True, "digest": found.document["reference"]["digest"]}
    pusher.artifact(repository, _OTHER)
    moved = examine(reference)
    assert moved.document["reference"]["store"]["digest"] == found.document["reference"]["digest"]
    assert "an earlier v1 is on this node" in moved.said("store")


@pytest.fixture
def pull(tmp_path: Path) -> Callable[[str], None]:
    """Pull into the store that the doctor looks at."""

    def pull(reference: str) -> None:
        command = [sys.executable, "-m", "csi_oras", "pull", reference, "--state-dir", str(tmp_path / "state")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    return pull


@pytest.mark.parametrize("content", [None, "no JSON", '{"auths": 3}'], ids=["directory", "text", "shape"])
@pytest.mark.parametrize("command", ["doctor", "pull"])
def test_registry_config_that_is_none_is_one_line(tmp_path: Path, command: str, content: str | None) -> None:
    file = tmp_path / "config.json"
    file.mkdir() if content is None else file.write_text(content)
    arguments = [command, "127.0.0.1:1/t/x:v1", "--registry-config", str(file), "--state-dir", str(tmp_path / "state")]
    ended = subprocess.run(
        [sys.executable, "-m", "csi_oras", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"csi-oras: .*config\.json: .*\n", ended.stderr)


@pytest.mark.parametrize("command", ["doctor", "pull"])
def test_password_without_a_user_is_a_usage_error(tmp_path: Path, command: str) -> None:
    arguments = [command, "127.0.0.1:1/t/x:v1", "--password-stdin", "--state-dir", str(tmp_path / "state")]
    ended = subprocess.run(
        [sys.executable, "-m", "csi_oras", *arguments],
        input=f"{_WRONG}\n", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--password-stdin goes with --username" in ended.stderr
