"""Registries of others, and clients of others, each as its users start it."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import oras.client
import oras.logger

from tests.support.artifacts import EMPTY_TYPE, OCI_MANIFEST, TITLE, Layer, manifest, sha256
from tests.support.fake_registry import basic
from tests.support.hosts import CertsD

Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A registry, whom it trusts, and the files that say so to its clients."""

    address: str
    directory: Path
    user: tuple[str, str] | None = None
    ca: Path | None = None
    admit: Callable[[str], None] = lambda _repository: None
    """Tell the registry's token server of a repository that the user may read and write."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.login.write_text(json.dumps({"auths": {self.address: {"auth": self._auth}} if self.user else {}}))
        if self.ca:
            certs = CertsD(self.directory / "certs.d")
            certs.write(self.address, f'server = "https://{self.address}"\nca = "{self.ca}"\n')
            (self.directory / "ca.crt").write_bytes(self.ca.read_bytes())
        self.policy.write_text(f"registries: {{hostsDirs: [{self.directory / 'certs.d'}]}}\n")

    @property
    def _auth(self) -> str:
        return basic(*self.user).partition(" ")[2] if self.user else ""

    @property
    def login(self) -> Path:
        """The docker config with the credential."""
        return self.directory / "config.json"

    @property
    def policy(self) -> Path:
        """The node policy of a driver that trusts what the registry shows."""
        return self.directory / "policy.yaml"

    @property
    def secrets(self) -> dict[str, str]:
        """The secret of a volume."""
        return {".dockerconfigjson": self.login.read_text()} if self.user else {}

    def reference(self, repository: str) -> str:
        """A reference that may be read and written."""
        self.admit(repository)
        return f"{self.address}/{repository}:v1"

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a program that trusts this registry and finds its credential where all of them look."""
        trust = {"SSL_CERT_FILE": str(self.ca)} if self.ca else {}
        environment = {**os.environ, **trust, "DOCKER_CONFIG": str(self.directory), "HOME": str(self.directory)}
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stderr[-2000:])
        return done.stdout


class Client:
    """A program that pushes files and pulls them."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.directory = directory
        self.out = directory / "out"
        self.out.mkdir(parents=True)

    def push(self, reference: str, files: Files) -> None:
        """Push files under their names."""
        raise NotImplementedError

    def pull(self, reference: str) -> Files:
        """Pull what is there, by its names."""
        raise NotImplementedError


class OrasPy(Client):
    """oras-py, the field's Python SDK."""

    def _client(self) -> oras.client.OrasClient:
        oras.logger.setup_logger(quiet=True)
        client = oras.client.OrasClient(
            insecure=not self.place.ca,
            tls_verify=str(self.place.ca or False),
            auth_backend="token" if self.place.ca else "basic",  # the other answers no challenge for a password
        )
        client.session.trust_env = False
        return client

    def push(self, reference: str, files: Files) -> None:
        paths = [str(path) for path in write(self.directory, files)]
        self._client().push(
            target=reference, files=paths, disable_path_validation=True, quiet=True, config_path=str(self.place.login)
        )

    def pull(self, reference: str) -> Files:
        self._client().pull(target=reference, outdir=str(self.out), config_path=str(self.place.login))
        return read(self.out)


class Oras(Client):
    """The oras program."""

    def _run(self, *command: str | Path) -> None:
        trust = ("--ca-file", str(self.place.ca)) if self.place.ca else ("--plain-http",)
        self.place.run("oras", *command, *trust, "--registry-config", str(self.place.login), cwd=self.directory)

    def push(self, reference: str, files: Files) -> None:
        write(self.directory, files)
        self._run("push", reference, "--artifact-type", "application/x.model", *files)

    def pull(self, reference: str) -> Files:
        self._run("pull", reference, "-o", self.out)
        return read(self.out)


class Skopeo(Client):
    """skopeo, which copies layouts."""

    def _copy(self, way: str, source: str, destination: str) -> None:
        trust = (f"--{way}-cert-dir", self.place.directory) if self.place.ca else (f"--{way}-tls-verify=false",)
        login = (f"--{way}-authfile", self.place.login)
        self.place.run("skopeo", "--insecure-policy", "copy", *trust, *login, source, destination)

    def push(self, reference: str, files: Files) -> None:
        self._copy("dest", f"oci:{write_layout(self.directory / 'layout', files)}", f"docker://{reference}")

    def pull(self, reference: str) -> Files:
        self._copy("src", f"docker://{reference}", f"oci:{self.out}")
        return read_layout(self.out)


class Crane(Client):
    """crane, which pushes and pulls layouts."""

    def push(self, reference: str, files: Files) -> None:
        self.place.run("crane", "push", write_layout(self.directory / "layout", files), reference)

    def pull(self, reference: str) -> Files:
        self.place.run("crane", "pull", "--format=oci", reference, self.out)
        return read_layout(self.out)


def write(directory: Path, files: Files) -> list[Path]:
    """Write files under their names."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return [directory / name for name in files]


def read(directory: Path) -> Files:
    """Return files by their names."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def write_layout(directory: Path, files: Files) -> Path:
    """Write an OCI layout with one artifact (image-spec, Image Layout)."""
    layers = [Layer(content=content, title=title, media_type="application/x.file") for title, content in files.items()]
    document = manifest(layers, artifactType="application/x.model")
    for content in (b"{}", document, *files.values()):
        path = directory / "blobs/sha256" / sha256(content).partition(":")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {"mediaType": OCI_MANIFEST, "digest": sha256(document), "size": len(document)}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return directory


def read_layout(directory: Path) -> Files:
    """Return the titled layers of the one artifact in an OCI layout, with their digests proven."""
    (entry,) = json.loads((directory / "index.json").read_text())["manifests"]
    found = json.loads(_blob(directory, entry["digest"]))
    assert found["config"]["mediaType"] == EMPTY_TYPE
    return {layer["annotations"][TITLE]: _blob(directory, layer["digest"]) for layer in found["layers"]}


def _blob(directory: Path, digest: str) -> bytes:
    content = (directory / "blobs" / digest.replace(":", "/")).read_bytes()
    assert sha256(content) == digest
    return content
