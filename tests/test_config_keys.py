"""Keys that the policy file names: read and checked with it, and looked at again when their files change."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_oras.config import Policy, PolicyWatcher, load, parse
from csi_oras.errors import InvalidConfigError
from tests.support.cosign import KINDS, Signer


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "cosign.pub"
    path.write_bytes(Signer.of().public)
    return path


def rule(*keys: Path, mode: str = "") -> str:
    return (
        f"verification:\n  - match: ghcr.io/acme/**\n{f'    mode: {mode}' if mode else ''}\n"
        f"    cosignKeys: [{', '.join(map(str, keys))}]\n"
    )


def fingerprints(policy: Policy) -> list[str]:
    return [key.key.fingerprint for rule in policy.verification for key in rule.cosign_keys]


def test_rule_is_read_with_its_keys_and_enforces_unless_it_says_otherwise(key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_bytes(Signer.of("Ed25519").public)
    (read,) = parse(rule(key, other), "policy.yaml").verification
    assert (read.match.pattern, read.mode) == ("ghcr.io/acme/**", "enforce")
    assert [named.path for named in read.cosign_keys] == [str(key), str(other)]
    assert parse(rule(key, mode="warn"), "policy.yaml").verification[0].mode == "warn"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_is_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(Signer.of(kind).public)
    assert len(fingerprints(parse(rule(path), "policy.yaml"))) == 1


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"", "exactly one public key", id="empty"),
        pytest.param(b"#" * (65 << 10), "is larger than", id="large"),
        pytest.param(Signer.of().private, "holds a private key", id="private"),
    ],
)
def test_wrong_key_file_refuses_the_policy_with_the_line(tmp_path: Path, content: bytes | None, cause: str) -> None:
    path = tmp_path / "key.pub"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfigError, match=cause) as caught:
        parse(rule(path), "policy.yaml")
    assert caught.value.message.startswith(f"policy.yaml, line 4: verification.cosignKeys: key file {path}: ")
    assert "BEGIN" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("verification:\n  - match: a/b\n    cosignKeys: []\n", "line 3: verification.cosignKeys: is empty"),
        ("verification:\n  - match: a/b\n    cosignKeys: [null]\n", "line 3: verification.cosignKeys: is null"),
        ("verification:\n  - cosignKeys: [/dev/null]\n", "/dev/null: cannot be read (it is not a regular file)"),
        ("verification:\n  - match: a/b\n    mode: off\n    cosignKeys: []\n", '"off" is not one of enforce, warn'),
        ('verification:\n  - match: a/b\n    cosignKeys: ["a\\0b"]\n', "cannot be read"),
        ("verification:\n  - match: a/b\n    cosignKeys: [/]\n", "cannot be read"),
    ],
)
def test_rule_that_could_never_be_met_is_refused(text: str, cause: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse(text, "policy.yaml")
    assert cause in caught.value.message
    assert caught.value.message.isprintable()


# -- reloading


class Watched:
    """A policy file, and what was taken over of it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.taken: list[Policy] = []
        path.write_text(text)
        self.watcher = PolicyWatcher(path, self.taken.append, load(path))

    def errors(self) -> list[str]:
        with capture_logs() as logs:
            self.watcher.look()
        return [line["cause"] for line in logs if line["log_level"] == "error"]


@pytest.fixture
def watched(tmp_path: Path, key: Path) -> Watched:
    return Watched(tmp_path / "policy.yaml", rule(key))


def test_key_that_is_replaced_in_its_file_is_taken_over_once(watched: Watched, key: Path) -> None:
    assert watched.errors() == []
    assert watched.taken == []
    before = fingerprints(load(watched.path))
    key.write_bytes(Signer.of().public)
    assert watched.errors() == watched.errors() == []
    (taken,) = watched.taken
    assert fingerprints(taken) != before


def test_key_that_is_gone_for_a_moment_leaves_the_old_one_in_force(watched: Watched, key: Path) -> None:
    content = key.read_bytes()
    key.unlink()
    assert len(watched.errors()) == 1
    assert watched.errors() == []  # said once
    key.write_bytes(content)
    assert watched.errors() == []
    assert watched.taken == []


def test_policy_that_came_before_its_key_is_taken_over_when_the_key_is_there(watched: Watched, key: Path) -> None:
    late = key.with_name("late.pub")
    watched.path.write_text(rule(key, late))
    assert len(watched.errors()) == 1
    assert watched.errors() == []
    assert watched.taken == []
    late.write_bytes(Signer.of().public)
    assert watched.errors() == []
    assert [len(fingerprints(policy)) for policy in watched.taken] == [2]
