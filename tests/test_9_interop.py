"""oras-py, the field's Python SDK: what it pushes we mount, what we push it pulls."""

import subprocess
import sys
from pathlib import Path

import oras.client
import oras.logger
import pytest

from tests.support.artifacts import Pusher
from tests.support.volume import Volume

pytestmark = pytest.mark.needs("root", "registry")
pytest_plugins = ["tests.support.shared"]


@pytest.fixture
def client() -> oras.client.OrasClient:
    oras.logger.setup_logger(quiet=True)
    client = oras.client.OrasClient(insecure=True)
    client.session.trust_env = False
    return client


def test_what_oras_py_pushes_is_mounted(
    client: oras.client.OrasClient, volume: Volume, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    paths = []
    for name, content in (("model.bin", b"weights"), ("config.json", b"{}x")):
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    reference = f"{pusher.address}/{repository}:v1"
    client.push(target=reference, files=paths, disable_path_validation=True, quiet=True)
    volume.publish(reference=reference)
    assert volume.names() == ["config.json", "model.bin"]
    assert (volume.target / "model.bin").read_bytes() == b"weights"


def test_what_we_push_oras_py_pulls(
    client: oras.client.OrasClient, pusher: Pusher, repository: str, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/model.bin").write_bytes(b"weights" * 1000)
    (tmp_path / "config.json").write_bytes(b"{}")
    reference = f"{pusher.address}/{repository}:v1"
    command = [sys.executable, "-m", "csi_oras", "push", reference, "--state-dir", str(tmp_path / "state")]
    paths = [str(tmp_path / "files/model.bin"), str(tmp_path / "config.json")]
    subprocess.run([*command, *paths], check=True, capture_output=True, timeout=60)
    pulled = client.pull(target=reference, outdir=str(tmp_path / "out"))
    assert {Path(path).name for path in pulled} == {"model.bin", "config.json"}
    assert (tmp_path / "out/model.bin").read_bytes() == b"weights" * 1000
