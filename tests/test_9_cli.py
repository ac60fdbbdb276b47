"""Commands as a person or a script runs them: documents, exit codes, files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.artifacts import EMPTY_TYPE, Layer, Pusher, manifest, sha256
from tests.support.driver import Driver
from tests.support.planted import planted
from tests.support.private_registry import PASSWORD, USER, private_registry

pytestmark = pytest.mark.needs("registry")
_LAYERS = [
    Layer(content=b"hello", title="a/b.txt", media_type="text/plain"),
    Layer(content=b"nameless"),
    Layer(content=b"{}", media_type=EMPTY_TYPE),
]


def run(
    state: Path, *arguments: str, stdin: str = "", prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "csi_oras", *arguments, "--state-dir", str(state)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)


def document(state: Path, *arguments: str, stdin: str = "") -> Any:
    """What a command prints with --json, which is one document and nothing else."""
    ended = run(state, *arguments, "--json", stdin=stdin)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert ended.stdout.count("\n") == 1
    return json.loads(ended.stdout)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def reference(pusher: Pusher, repository: str) -> str:
    return pusher.artifact(repository, _LAYERS, artifactType="application/x.model")


# -- inspect


def test_inspect_says_what_a_volume_would_show_and_why(state: Path, reference: str) -> None:
    found = document(state, "inspect", reference)
    digest = sha256(manifest(_LAYERS, artifactType="application/x.model"))
    assert found == {
        "reference": f"{reference}@{digest}",
        "digest": digest,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x.model",
        "kind": "generic",
        "files": [
            {"name": "a/b.txt", "size": 5, "mode": "0444", "layer": 0, "rule": "title", "lazy": True},
            {
                "name": sha256(b"nameless").replace(":", "-"),
                "size": 8,
                "mode": "0444",
                "layer": 1,
                "rule": "digest",
                "lazy": True,
            },
        ],
        "left": [{"layer": 2, "reason": "is the empty descriptor"}],
        "index": "none",
    }
    assert list((state / "blobs/sha256").iterdir()) != []  # the manifest itself
    assert not (state / "blobs/sha256" / sha256(b"hello").partition(":")[2]).exists()


def test_inspect_says_what_a_selection_leaves_out(state: Path, reference: str) -> None:
    found = document(state, "inspect", reference, "--include", "a/**", "--unpack", "never")
    assert [file["name"] for file in found["files"]] == ["a/b.txt"]
    assert {item["layer"]: item["reason"].rpartition(": ")[2] for item in found["left"]} == {
        1: "not included",
        2: "is the empty descriptor",
    }


def test_inspect_without_json_is_a_tree_for_people(state: Path, reference: str) -> None:
    ended = run(state, "inspect", reference)
    assert ended.returncode == 0
    assert "b.txt" in ended.stdout
    assert "\x1b" not in ended.stdout


# -- pull


def test_pull_reports_what_it_fetched_and_a_second_one_nothing(state: Path, reference: str) -> None:
    first = document(state, "pull", reference)
    assert set(first) == {"reference", "digest", "bytes", "fetchedBytes", "seconds"}
    digest = sha256(manifest(_LAYERS, artifactType="application/x.model"))
    assert (first["reference"], first["digest"]) == (f"{reference}@{digest}", digest)
    assert (first["bytes"], first["fetchedBytes"]) == (13, 13)
    assert isinstance(first["seconds"], float)
    second = document(state, "pull", reference)
    assert (second["bytes"], second["fetchedBytes"], second["digest"]) == (13, 0, digest)


def test_pull_to_a_directory_copies_files_that_are_the_users_own(state: Path, reference: str, tmp_path: Path) -> None:
    ended = run(state, "pull", reference, "--to", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""  # no progress bar without a terminal
    copy = tmp_path / "out/a/b.txt"
    assert copy.read_bytes() == b"hello"
    assert (copy.stat().st_mode & 0o777, copy.stat().st_nlink) == (0o644, 1)
    copy.write_text("changed")
    again = run(state, "pull", reference, "--to", str(tmp_path / "other"), "--path", "a/b.txt")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "other/b.txt").read_bytes() == b"hello"


def test_pull_into_what_cannot_be_written_is_one_line(state: Path, reference: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run(state, "pull", reference, "--to", str(tmp_path / "file"))
    assert ended.returncode == 1
    assert re.fullmatch(r"csi-oras: directory .*file: cannot be written .*\n", ended.stderr)


@pytest.mark.needs("root")
def test_pull_works_without_the_privileges_of_root(state: Path, reference: str) -> None:
    """As an ordinary user, who may not rename a directory that he cannot write."""
    plain = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    ended = run(state, "pull", reference, prefix=plain)
    assert ended.returncode == 0, ended.stderr
    assert list((state / "staging").iterdir()) == []


@pytest.mark.needs("root")
def test_pull_beside_a_driver_shares_its_store(short_path: Path, reference: str) -> None:
    with Driver(short_path) as driver:
        document(driver.state, "pull", reference)
        target = driver.target()
        driver.publish(target, reference=reference, pullPolicy="Never")
        assert (target / "a/b.txt").read_bytes() == b"hello"
        (listed,) = document(driver.state, "store", "ls")
        assert listed["volumes"] == 1
        driver.unpublish(target)


# -- push


def test_push_reports_what_it_sent_and_a_second_one_nothing(
    state: Path, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/one").write_bytes(b"1" * 1000)
    (tmp_path / "d/e/two").write_bytes(b"2" * 500)
    reference = f"{pusher.address}/{repository}:v1"
    first = document(state, "push", reference, str(tmp_path / "d"), "--artifact-type", "application/x.model")
    assert set(first) == {"reference", "digest", "bytes", "sentBytes"}
    assert (first["bytes"], first["sentBytes"]) == (1500, 1500)
    assert first["reference"] == f"{reference}@{first['digest']}"
    second = document(state, "push", reference, str(tmp_path / "d"), "--artifact-type", "application/x.model")
    assert (second["digest"], second["sentBytes"]) == (first["digest"], 0)
    found = document(state, "inspect", reference)
    assert [file["name"] for file in found["files"]] == ["d/e/two", "d/one"]
    assert found["artifactType"] == "application/x.model"


def test_push_to_a_digest_is_refused(state: Path, pusher: Pusher, repository: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    ended = run(state, "push", f"{pusher.address}/{repository}@sha256:{'0' * 64}", str(tmp_path / "x"))
    assert ended.returncode == 1
    assert "by digest" in ended.stderr


@pytest.mark.parametrize("kind", ["link", "link to a directory", "pipe", "colon"])
def test_push_of_what_no_volume_could_show_is_refused(
    state: Path, pusher: Pusher, repository: str, tmp_path: Path, kind: str
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    match kind:
        case "link":
            (directory / "l").symlink_to("/etc/passwd")
        case "link to a directory":
            (directory / "l").symlink_to("/etc")
        case "pipe":
            os.mkfifo(directory / "p")
        case _:
            (directory / "a:b").write_text("x")
    ended = run(state, "push", f"{pusher.address}/{repository}:v1", str(directory))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


# -- store


def test_store_ls_lists_artifacts_with_their_references(state: Path, reference: str) -> None:
    assert document(state, "store", "ls") == []
    pulled = document(state, "pull", reference)
    (listed,) = document(state, "store", "ls")
    assert set(listed) == {"digest", "references", "bytes", "localBytes", "volumes", "lastUsed"}
    assert (listed["digest"], listed["references"]) == (pulled["digest"], [reference])
    assert (listed["bytes"], listed["localBytes"], listed["volumes"]) == (13, 13, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed["lastUsed"])
    ended = run(state, "store", "ls")
    assert reference in ended.stdout.replace("\n", "")


# -- failures


@pytest.mark.parametrize("command", ["pull", "inspect"])
def test_failure_is_one_line_and_exit_code_1(state: Path, reference: str, command: str) -> None:
    absent = f"{reference.rpartition(':')[0]}:absent"
    for flags in ((), ("--json",)):
        ended = run(state, command, absent, *flags)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith(f"csi-oras: {absent}")
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull",),
        ("pull", "NOT//a reference"),
        ("pull", "reg.example/a:v1", "--nope"),
        ("pull", "reg.example/a:v1", "--username", "alice"),
        ("pull", "reg.example/a:v1", "--unpack", "sometimes"),
        ("push", "reg.example/a:v1"),
        ("push", "reg.example/a:v1", "/absent/file"),
        ("inspect",),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(state: Path, arguments: tuple[str, ...]) -> None:
    ended = run(state, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_config_that_is_wrong_is_refused_by_commands_too(state: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("limits: {fils: 1}\n")
    ended = run(state, "pull", "reg.example/a:v1", "--config", str(tmp_path / "policy.yaml"))
    assert ended.returncode == 1
    assert "fils" in ended.stderr


def test_policy_holds_for_commands_too(state: Path, reference: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("registries: {allow: []}\n")
    ended = run(state, "pull", reference, "--config", str(tmp_path / "policy.yaml"))
    assert ended.returncode == 1
    assert "registries.allow" in ended.stderr


# -- credentials


def test_credentials_come_from_standard_input_or_a_docker_config(state: Path, tmp_path: Path) -> None:
    with private_registry(tmp_path / "private") as (registry, owner):
        reference = owner.artifact("team/model", _LAYERS)
        asked = run(state, "pull", reference)
        assert asked.returncode == 1
        assert "wants a credential" in asked.stderr
        login = ("--username", USER, "--password-stdin")
        wrong = run(state, "pull", reference, *login, stdin=f"{planted('wrong')}\n")
        assert wrong.returncode == 1
        assert "the command line" in wrong.stderr
        assert document(state, "pull", reference, *login, stdin=f"{PASSWORD}\n")["bytes"] == 13
        config = tmp_path / "config.json"
        auths = {registry.address: {"username": USER, "password": PASSWORD}}
        config.write_text(json.dumps({"auths": auths}))
        assert document(state, "pull", reference, "--registry-config", str(config))["fetchedBytes"] == 0
        os.mkfifo(tmp_path / "fifo")
        endless = run(state, "pull", reference, "--registry-config", str(tmp_path / "fifo"))
        assert f"{tmp_path / 'fifo'}: cannot be read (it is not a regular file)" in endless.stderr
        (tmp_path / "x").write_text("x")
        pushed = document(
            state, "push", f"{registry.address}/team/out:v1", str(tmp_path / "x"), "--registry-config", str(config)
        )
        assert pushed["sentBytes"] == 1
        for path in state.rglob("*"):
            assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
