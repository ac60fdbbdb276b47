"""A node whose policy wants signatures, and artifacts to be signed."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.artifacts import Layer, manifest
from tests.support.cosign import Place, Signer
from tests.support.driver import Driver


@dataclass(frozen=True, kw_only=True)
class Node:
    """A driver whose policy wants `enforced/**` signed by one of `signers`, and `both/**` by two of them."""

    driver: Driver
    signers: dict[str, Signer]

    @property
    def signer(self) -> Signer:
        return self.signers["P-256"]

    def checks(self, mode: str, outcome: str) -> float:
        """How many checks ended so."""
        return checks(self.driver, mode, outcome)


def checks(driver: Driver, mode: str, outcome: str) -> float:
    """How many checks ended so."""
    return driver.metrics().get(f'csi_oras_signature_checks_total{{mode="{mode}",outcome="{outcome}"}}', 0)


def warnings(driver: Driver, *words: str) -> list[str]:
    """What was let through with a warning."""
    lines = (line for line in driver.log.splitlines() if "let through with a warning" in line)
    return [line for line in lines if all(word in line for word in words)]


def rule(match: str, *keys: Path, mode: str = "enforce") -> str:
    """A line of the policy file's `verification`."""
    return f"- {{match: '{match}', mode: {mode}, cosignKeys: [{', '.join(map(str, keys))}]}}\n"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact of one file, not signed yet."""

    place: Place
    repository: str
    content: bytes
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.place.address}/{self.repository}:v1"

    def sign(self, signer: Signer) -> None:
        """Sign it as cosign does."""
        self.place.sign(self.repository, self.digest, signer)

    def attach(self, *layers: Layer) -> None:
        """Attach what may be signatures."""
        self.place.attach(self.repository, self.digest, *layers)


def push(place: Place, repository: str, name: str = "enforced") -> Artifact:
    """Push an artifact of random bytes."""
    layer = Layer(content=os.urandom(1000), title="x")
    for content in (b"{}", layer.content):
        place.registry.blob(f"{name}/{repository}", content)
    digest = place.registry.manifest(f"{name}/{repository}", "v1", manifest([layer]))
    return Artifact(place=place, repository=f"{name}/{repository}", content=layer.content, digest=digest)
