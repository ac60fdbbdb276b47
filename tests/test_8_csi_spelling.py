"""One target has one spelling, and one volume, however many ask at once; odd input is refused and no bug."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from csi_oras.demo.distribution import Distribution
from tests.support.artifacts import Layer, Pusher
from tests.support.calls import refused
from tests.support.driver import Driver


def _codes(driver: Driver, reference: str, asked: list[tuple[str, str]]) -> list[grpc.StatusCode]:
    """Publish one artifact under several (volume id, target) at once, and return how each call ended."""

    def publish(volume: tuple[str, str]) -> grpc.StatusCode:
        try:
            driver.publish(volume[1], volume_id=volume[0], reference=reference)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(publish, asked))


def test_two_volumes_racing_for_one_target_give_one_mount(driver: Driver, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"x", title="file")])
    for attempt in range(15):
        target = driver.target(f"volume-{attempt}")
        codes = _codes(driver, reference, [("one", str(target)), ("two", str(target))])
        assert sorted(code.name for code in codes) == ["ALREADY_EXISTS", "OK"]
        assert len(driver.mounts()) == 1
        winner = "one" if codes[0] is grpc.StatusCode.OK else "two"
        driver.unpublish(target, volume_id=winner)
        assert driver.mounts() == []


def test_target_with_and_without_a_slash_is_one_target(driver: Driver, pusher: Pusher, repository: str) -> None:
    reference = pusher.artifact(repository, [Layer(content=b"x", title="file")])
    target = driver.target()
    codes = _codes(driver, reference, [("one", str(target)), ("one", f"{target}/")] * 4)
    assert set(codes) == {grpc.StatusCode.OK}
    assert driver.mounts() == [str(target)]
    driver.unpublish(f"{target}/", volume_id="one")
    assert driver.mounts() == []
    assert not target.exists()
    assert driver.metrics()['csi_oras_published_volumes{mode="eager"}'] == 0


def test_target_with_a_name_too_long_is_invalid(driver: Driver) -> None:
    target = driver.target().with_name("a" * 256)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "255 bytes"):
        driver.publish(target, reference="127.0.0.1:1/a/b:v1")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "255 bytes"):
        driver.unpublish(target)


def test_secret_that_is_no_text_is_unauthenticated(driver: Driver, registry: Distribution) -> None:
    config = json.dumps({"auths": {registry.address: {"username": "\ud800", "password": "b"}}})
    with refused(grpc.StatusCode.UNAUTHENTICATED, "no text"):
        driver.publish(driver.target(), reference=f"{registry.address}/a/b:v1", secrets={".dockerconfigjson": config})


def test_pull_to_a_directory_with_links_follows_none(
    registry: Distribution, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    pusher.artifact(repository, [Layer(content=b"new", title="file"), Layer(content=b"deep", title="sub/file")])
    canary, outside, into = tmp_path / "canary", tmp_path / "outside", tmp_path / "into"
    canary.write_text("untouched")
    outside.mkdir()
    into.mkdir()
    (into / "file").symlink_to(canary)
    command = [
        sys.executable, "-m", "csi_oras", "pull", f"{registry.address}/{repository}:v1",
        "--to", str(into), "--state-dir", str(tmp_path / "state"),
    ]  # fmt: skip
    assert subprocess.run(command, check=False).returncode == 0
    assert canary.read_text() == "untouched"
    assert (into / "file").read_text() == "new"
    assert not (into / "file").is_symlink()
    (into / "sub" / "file").unlink()
    (into / "sub").rmdir()
    (into / "sub").symlink_to(outside)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, list(outside.iterdir())) == (1, [])
    assert "links are not followed" in done.stderr


def test_store_ls_of_a_directory_that_is_not_there_makes_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "csi_oras", "store", "ls", "--json", "--state-dir", str(tmp_path / "typo")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert not (tmp_path / "typo").exists()
