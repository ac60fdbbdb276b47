"""`csi-oras doctor`: what it finds on a node, well or broken, beside a driver and without one."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_oras.cli.doctor import doctor as doctor_command
from csi_oras.cli.serve import serve
from csi_oras.doctor import check, lazy
from csi_oras.store.database import Database
from csi_oras.store.paths import StatePaths
from tests.support.artifacts import Layer, Pusher
from tests.support.doctoring import Diagnosis, diagnose, doctor
from tests.support.driver import Driver
from tests.support.hosts import CertsD
from tests.support.providers import FakeProvider


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node with a kubelet and a store, on which no driver runs."""
    (tmp_path / "kubelet/pods").mkdir(parents=True)
    Database(StatePaths.create(tmp_path / "state").database).close()
    return tmp_path


def examine(node: Path, policy: str = "", *arguments: str) -> Diagnosis:
    (node / "policy.yaml").write_text(policy or "{}")
    flags = ("--state-dir", node / "state", "--kubelet-dir", node / "kubelet", "--config", node / "policy.yaml")
    return diagnose(*flags, *arguments)


def of_driver(driver: Driver) -> tuple[str, ...]:
    address = f"127.0.0.1:{driver.metrics_port}"
    return "--endpoint", f"unix://{driver.socket}", "--metrics-address", address


def everything_below(directory: Path) -> dict[str, tuple[int, ...]]:
    """What tells whether anything was changed; a WAL's index is the memory of whoever has the database open."""
    status = {str(path): path.lstat() for path in directory.rglob("*") if not path.name.endswith("-shm")}
    return {path: (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns) for path, found in status.items()}


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# -- a node that is well


def test_node_without_a_driver_has_no_failure_and_is_told_so(node: Path) -> None:
    found = examine(node)
    assert (found.code, found.failed) == (0, [])
    assert "none runs here" in found.said("driver")
    assert found.states("database") == found.states("space") == found.states("state directory") == ["ok"]


@pytest.mark.needs("root", "registry")
def test_node_with_a_driver_is_looked_at_beside_it(short_path: Path, pusher: Pusher, repository: str) -> None:
    with Driver(short_path) as driver:
        driver.publish(driver.target(), reference=pusher.artifact(repository, [Layer(content=b"x")]))
        before = everything_below(driver.state)
        found = examine(short_path, "", *of_driver(driver))
        assert (found.code, found.states("driver"), found.states("health")) == (0, ["ok"], ["ok"])
        assert "csi.oras.land" in found.said("driver")
        assert "artifacts: 1, volumes: 1" in found.said("database")
        assert everything_below(driver.state) == before
        driver.unpublish(driver.target())


def test_node_without_a_store_gets_none(tmp_path: Path) -> None:
    (tmp_path / "kubelet/pods").mkdir(parents=True)
    found = examine(tmp_path)
    assert (found.code, found.states("state directory"), found.states("database")) == (0, ["warning"], [])
    assert not (tmp_path / "state").exists()


def test_look_at_a_store_changes_nothing(node: Path) -> None:
    before = everything_below(node / "state")
    assert examine(node).code == 0
    assert everything_below(node / "state") == before


def test_text_for_people_is_a_line_for_each_check_and_one_in_all(node: Path) -> None:
    ended = doctor("--state-dir", node / "state", "--kubelet-dir", node / "absent")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.isascii()
    lines = ended.stdout.splitlines()
    assert lines[0].strip() == "this node"
    assert any(line.startswith("failed") and "kubelet directory" in line for line in lines)
    assert any("-> name the kubelet's --root-dir by --kubelet-dir" in line for line in lines)
    assert lines[-1].startswith("1 failed, ")


def test_flags_have_the_defaults_of_the_driver() -> None:
    theirs = {option.name: option.default for option in serve.params}
    for option in doctor_command.params:
        if option.name in ("state_dir", "kubelet_dir", "metrics_address"):
            assert option.default == theirs[option.name]


# -- the driver


@pytest.mark.needs("root")
def test_driver_that_was_killed_has_failed(short_path: Path) -> None:
    with Driver(short_path) as driver:
        driver.kill()
        found = examine(short_path, "", *of_driver(driver))
    assert (found.code, found.failed) == (1, ["driver"])
    assert str(driver.socket) in found.said("driver")


@pytest.mark.needs("root")
def test_driver_that_is_not_well_says_why(short_path: Path) -> None:
    with Driver(short_path) as driver:
        shutil.rmtree(driver.state / "blobs")
        found = examine(short_path, "", *of_driver(driver))
    assert found.failed == ["driver"]
    assert "cannot be written" in found.said("driver")


@pytest.mark.needs("root")
def test_metrics_address_that_is_another_is_a_warning(short_path: Path) -> None:
    with Driver(short_path) as driver:
        found = examine(short_path, "", *of_driver(driver)[:2], "--metrics-address", "127.0.0.1:1")
    assert (found.code, found.states("driver"), found.states("health")) == (0, ["ok"], ["warning"])
    assert "--metrics-address" in found.said("health")


# -- the policy file and what it names


def test_policy_file_that_is_wrong_fails_with_its_line_and_the_rest_is_looked_at(node: Path) -> None:
    found = examine(node, "registries: {allow: ['**']}\nlimits: {fils: 1}\n")
    assert found.failed == ["configuration"]
    assert "line 2" in found.said("configuration")
    assert "fils" in found.said("configuration")
    assert found.states("space") == ["ok"]


def test_cosign_key_that_is_none_fails_the_policy_file(node: Path) -> None:
    (node / "cosign.pub").write_text("no key")
    found = examine(node, f"verification: [{{match: '**', cosignKeys: [{node / 'cosign.pub'}]}}]")
    assert found.failed == ["configuration"]
    assert "cosign.pub" in found.said("configuration")


def test_docker_configs_that_cannot_be_used_are_each_told(node: Path) -> None:
    (node / "directory").mkdir()
    (node / "text").write_text("not JSON")
    (node / "helpers").write_text(json.dumps({"auths": {}, "credsStore": "pass"}))
    (node / "good").write_text(json.dumps({"auths": {}}))
    paths = ", ".join(str(node / name) for name in ("directory", "text", "helpers", "good", "absent"))
    found = examine(node, f"credentials: {{dockerConfig: [{paths}]}}")
    assert found.states("docker configs") == ["failed", "failed", "warning", "ok", "failed"]
    for word in ("Is a directory", 'is not a docker config with "auths"', "credsStore", "No such file"):
        assert word in found.said("docker configs")


@pytest.mark.parametrize("entry", [{"auth": "s3cr3t!!"}, {"auth": 3}, {"auth": ["s3cr3t"]}, "s3cr3t", {"auth": "/w=="}])
def test_docker_config_with_an_entry_that_holds_nothing_is_a_warning(node: Path, entry: object) -> None:
    good = {"auth": "dXNlcjpzM2NyM3Q="}
    plain = {"username": "user", "password": "s3cr3t"}
    auths = {"a.example": good, "b.example": entry, "c.example": {}, "d.example": plain}
    (node / "config.json").write_text(json.dumps({"auths": auths}))
    found = examine(node, f"credentials: {{dockerConfig: [{node / 'config.json'}]}}")
    assert (found.code, found.states("docker configs")) == (0, ["warning"])
    said = found.said("docker configs")
    assert f'{node / "config.json"} holds no credential that can be read for "b.example"' in said
    assert not [word for word in ("s3cr3t", "czNj", "a.example", "c.example", "d.example") if word in said]


def test_hosts_directory_with_a_broken_file_fails_for_its_registry_alone(node: Path) -> None:
    certs = CertsD(node / "certs.d")
    certs.write("good.example", 'server = "https://good.example"')
    certs.write("bad.example", "server = ")
    certs.write("ca.example", 'ca = "absent.crt"')
    found = examine(node, f"registries: {{hostsDirs: [{certs.root}, {node / 'absent'}]}}")
    assert found.states("hosts directories") == ["failed", "failed", "ok"]
    assert "bad.example/hosts.toml: is not TOML" in found.said("hosts directories")
    assert "absent.crt" in found.said("hosts directories")
    assert "good.example" not in found.said("hosts directories")


def test_credential_providers_are_looked_for_and_not_run(node: Path) -> None:
    provider = FakeProvider(node / "providers")
    provider.configure("*.example")
    policy = f"credentials: {{{provider.policy}}}"
    assert examine(node, policy).states("credential providers") == ["ok"]
    program = provider.directory / provider.name
    program.chmod(0o644)
    assert "cannot be executed" in examine(node, policy).said("credential providers")
    program.unlink()
    absent = examine(node, policy)
    assert (absent.failed, "is not there" in absent.said("credential providers")) == (["credential providers"], True)
    provider.config.write_text("kind: Other")
    assert "is no CredentialProviderConfig" in examine(node, policy).said("credential providers")
    assert provider.runs == []


# -- the state directory and the kubelet's


@pytest.mark.parametrize(("mode", "state"), [(0o700, "ok"), (0o755, "warning"), (0o777, "failed")])
def test_state_directory_that_is_open_to_others_is_told(node: Path, mode: int, state: str) -> None:
    (node / "state").chmod(mode)
    found = examine(node)
    assert found.states("state directory") == [state]
    assert (f"{mode:04o}" in found.said("state directory")) == (state != "ok")
    assert stat.S_IMODE((node / "state").stat().st_mode) == mode


def test_state_directory_that_is_a_file_fails(node: Path) -> None:
    found = examine(node, "", "--state-dir", str(node / "policy.yaml"))
    assert found.failed == ["state directory"]
    assert "policy.yaml is no directory" in found.said("state directory")
    assert "chmod" not in found.said("state directory")


def test_database_that_is_damaged_fails_and_is_left_as_it_is(node: Path) -> None:
    database = node / "state/state.db"
    database.write_bytes(b"x" * 8192)
    found = examine(node)
    assert found.failed == ["database"]
    assert "is damaged" in found.said("database")
    assert [path.name for path in (node / "state").glob("state.db*")] == ["state.db"]
    assert database.read_bytes() == b"x" * 8192


@pytest.mark.needs("root")
def test_state_directory_on_two_file_systems_fails(node: Path) -> None:
    with mounted(node / "state/trees"):
        found = examine(node)
    assert found.failed == ["state directory"]
    assert "state/trees is on another file system" in found.said("state directory")


@pytest.mark.needs("root")
def test_space_that_is_used_up_fails(node: Path) -> None:
    with mounted(node / "state", "-o", "size=1m"):
        with (node / "state/full").open("wb", buffering=0) as file:
            file.write(bytes(2 << 20))  # as much as there is room for
        found = examine(node)
    assert "space" in found.failed
    assert "is full" in found.said("space")


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("options", "state", "word"),
    [
        (("--make-shared",), "ok", "seen everywhere"),
        (("--make-private",), "warning", "mountPropagation"),
        (("--make-shared", "-o", "ro"), "failed", "read-only"),
    ],
)
def test_kubelet_directory_must_show_mounts_elsewhere(
    node: Path, options: tuple[str, ...], state: str, word: str
) -> None:
    with mounted(node / "kubelet", *options):
        found = examine(node)
    assert found.states("kubelet directory") == [state]
    assert word in found.said("kubelet directory")


def test_kubelet_directory_that_is_absent_fails(node: Path) -> None:
    shutil.rmtree(node / "kubelet")
    found = examine(node)
    assert found.failed == ["kubelet directory"]
    assert "--kubelet-dir" in found.said("kubelet directory")


@pytest.mark.needs("root")
def test_process_that_may_not_mount_is_told(node: Path) -> None:
    plain = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    ended = doctor("--state-dir", node / "state", "--kubelet-dir", node / "kubelet", "--json", prefix=plain)
    (found,) = [check for check in json.loads(ended.stdout)["checks"] if check["name"] == "privileges"]
    assert found["state"] == "warning"
    assert "run the doctor as root" in found["remedy"]


# -- time


def test_check_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.2)
    release = threading.Event()

    def hang() -> list[check.Check]:
        release.wait()
        return []

    hung, well = check.run({"hung": hang, "well": lambda: [check.Check.ok("well", "it is")]})
    release.set()
    assert (hung.name, hung.state, well.state) == ("hung", check.State.FAILED, check.State.OK)
    assert "did not come to an end" in hung.message


def test_check_that_meets_an_error_fails_in_its_words() -> None:
    (found,) = check.run({"x": lambda: [check.Check.ok("x", os.listdir("/absent")[0])]})  # noqa: PTH208
    assert (found.state, found.message) == (
        check.State.FAILED,
        "/absent cannot be looked at (No such file or directory)",
    )


# -- lazy volumes


def of_fuse(release: str, sysctls: Path) -> list[str]:
    return [f"{found.state} {found.message}" for found in lazy.check_fuse(release, sysctls)]


@pytest.mark.needs("fuse")
@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("6.9.0-rc1+", "ok"),
        ("10.0", "ok"),
        ("6.8.12-amd64", "warning Linux 6.8.12-amd64 does not repeat"),
        ("5.15.0-generic", "warning Linux 5.15.0-generic cannot show one FUSE file system twice"),
    ],
)
def test_kernel_that_repeats_no_requests_is_warned_of(release: str, said: str, tmp_path: Path) -> None:
    (found,) = of_fuse(release, tmp_path)
    assert found.startswith(said)


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("name", ["default_request_timeout", "max_request_timeout"])
def test_timeout_of_fuse_that_is_set_is_warned_of(name: str, tmp_path: Path) -> None:
    for other in ("default_request_timeout", "max_request_timeout", "max_pages_limit"):
        (tmp_path / other).write_text("0\n" if other != "max_pages_limit" else "256\n")
    assert [found.split()[0] for found in of_fuse("6.18.0", tmp_path)] == ["ok"]
    (tmp_path / name).write_text("30\n")
    (found,) = of_fuse("6.18.0", tmp_path)
    assert found.startswith(f"warning sysctl fs.fuse.{name} is 30")


def test_mounter_that_is_named_and_not_there_is_warned_of(node: Path) -> None:
    found = examine(node, "", "--mounter", f"unix://{node}/mounter.sock")
    assert (found.code, found.states("mounter")) == (0, ["warning"])
    assert f"{node}/mounter.sock is not there" in found.said("mounter")


@pytest.mark.needs("root", "fuse")
@pytest.mark.parametrize("named", [True, False])
def test_mounter_that_runs_is_asked_what_it_holds(node: Path, short_path: Path, *, named: bool) -> None:
    place = short_path if named else node / "state"
    endpoint = f"unix://{place}/mounter.sock"
    with running_mounter(endpoint, node / "state"):
        found = examine(node, "", *(("--mounter", endpoint) if named else ()))
    assert found.states("mounter") == ["ok"]
    assert "holds lazy trees: 0" in found.said("mounter")


@contextmanager
def running_mounter(endpoint: str, state: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "csi_oras", "mounter", "--endpoint", endpoint, "--state-dir", str(state)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            assert "holds lazy volumes" in process.stderr.readline()
            yield
        finally:
            process.terminate()
