"""The image is built of what the project says: its version, its files, its dependencies."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import csi_oras

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_image_label_has_the_version_of_the_project() -> None:
    assert re.findall(r'image\.version="([^"]+)"', DOCKERFILE) == [csi_oras.__version__]
    assert set(re.findall(r"csi-oras/csi-oras:(\S+)", DOCKERFILE)) == {csi_oras.__version__}


def test_image_is_built_of_what_the_context_holds() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert {"csi_oras", "proto", "pyproject.toml"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert any(name == allowed or name.startswith(f"{allowed}/") for allowed in let_in)


def test_image_is_made_of_versions_that_the_project_allows() -> None:
    text = (ROOT / "deploy" / "image" / "requirements.txt").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:", text, re.MULTILINE))
    assert len(pinned) == len(re.findall(r"^[\w.-]+[=<>]", text, re.MULTILINE))
    for wanted in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["fuse"]]):
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), wanted
