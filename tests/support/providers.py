"""A credential provider plugin of the kubelet's, as a script that answers from a file and counts its runs."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.planted import planted

API_VERSION = "credentialprovider.kubelet.k8s.io/v1"
_SCRIPT = """#!{python}
import json, os, pathlib, sys
here = pathlib.Path({here!r})
request = json.load(sys.stdin)
with (here / "runs").open("a") as runs:
    runs.write(json.dumps([request, sys.argv[1:], os.environ.get("REGION")]) + "\\n")
sys.stderr.write((here / "noise").read_text() if (here / "noise").exists() else "")
exec((here / "behaviour.py").read_text())
sys.stdout.write((here / "answer").read_text())
"""


class FakeProvider:
    """A directory with the program and the kubelet's configuration for it."""

    def __init__(self, directory: Path, name: str = "fake-provider") -> None:
        self.name = name
        self.here = directory / "here"
        self.directory = directory / "bin"
        self.config = directory / "providers.yaml"
        for path in (self.here, self.directory):
            path.mkdir(parents=True)
        program = self.directory / name
        program.write_text(_SCRIPT.format(python=sys.executable, here=str(self.here)))
        program.chmod(0o755)
        self.behave("")
        self.answers({})

    def configure(self, *images: str, **more: Any) -> None:
        """Write the kubelet's file."""
        provider = {
            "name": self.name,
            "apiVersion": API_VERSION,
            "matchImages": list(images),
            "defaultCacheDuration": "12h",
            "args": ["get", "a b; c"],
            "env": [{"name": "REGION", "value": "x y"}],
            **more,
        }
        document = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
        self.config.write_text(json.dumps({**document, "providers": [provider]}))

    def answers(self, given: dict[str, tuple[str, str]], /, **more: Any) -> None:
        """Give these pairs by their keys, with their passwords planted."""
        pairs = {key: {"username": user, "password": planted(password)} for key, (user, password) in given.items()}
        response = {"kind": "CredentialProviderResponse", "apiVersion": API_VERSION, "cacheKeyType": "Registry"}
        (self.here / "answer").write_text(json.dumps({**response, "auth": pairs, **more}))

    def behave(self, code: str) -> None:
        """Run this Python before the answer."""
        (self.here / "behaviour.py").write_text(code)

    @property
    def runs(self) -> list[Any]:
        """The request, arguments and environment of each run."""
        path = self.here / "runs"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def policy(self) -> str:
        """The policy key that names it."""
        return f"providers: {{configFile: {self.config}, binDir: {self.directory}}}"
