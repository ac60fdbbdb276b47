"""Fixtures for tests of `csi-oras doctor REF`; name this module in `pytest_plugins`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doctoring import Diagnosis, Examine, diagnose
from tests.support.hosts import CertsD
from tests.support.planted import MARK


@pytest.fixture
def examine(tmp_path: Path) -> Iterator[Examine]:
    """Ask the doctor for a reference, with a policy; whatever he says, no secret is in it."""
    said: list[str] = []

    def examine(reference: str, policy: str = "", *arguments: str, stdin: str = "") -> Diagnosis:
        (tmp_path / "policy.yaml").write_text(policy or f"registries: {{hostsDirs: [{tmp_path / 'certs.d'}]}}")
        flags = ("--state-dir", tmp_path / "state", "--config", tmp_path / "policy.yaml")
        found = diagnose(reference, *flags, *arguments, stdin=stdin)
        said.append(json.dumps(found.document))
        return found

    yield examine
    assert said
    assert not [document for document in said if MARK in document]


@pytest.fixture
def certs(tmp_path: Path) -> CertsD:
    return CertsD(tmp_path / "certs.d")
