"""Container images as their tools make them: umoci, skopeo and buildah in a directory of a test's own."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.artifacts import DOCKER_MANIFEST, OCI_MANIFEST, Pusher

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_SUFFIXES = {OCI_MANIFEST: "+", DOCKER_MANIFEST: "."}
_CONFIGS = {
    OCI_MANIFEST: "application/vnd.oci.image.config.v1+json",
    DOCKER_MANIFEST: "application/vnd.docker.container.image.v1+json",
}


class Images:
    """An OCI layout of umoci's, and what takes images from there to a registry."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = directory / "layout"
        self._numbers = iter(range(1000))
        self._environment = _private_environment(directory)
        self.run("umoci", "init", "--layout", self.layout)

    def run(self, *command: str | Path, **environment: str) -> str:
        """Run one of the tools, and give what it prints."""
        done = subprocess.run(
            [str(part) for part in command],
            check=False, capture_output=True, text=True, env=self._environment | environment, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr[-2000:])
        return done.stdout

    def new(self, tag: str) -> str:
        """Start an image without layers."""
        self.run("umoci", "new", "--image", f"{self.layout}:{tag}")
        return tag

    def layer(self, tag: str, change: Callable[[Path], None]) -> None:
        """Add the layer that `change` makes of the image's root file system: umoci writes what is different."""
        bundle = self._bundle(tag)
        change(bundle / "rootfs")
        self.run("umoci", "repack", "--image", f"{self.layout}:{tag}", bundle)

    def opaque(self, tag: str, source: Path, directory: str) -> None:
        """Add a layer that puts `source` in the place of a whole directory."""
        self.run("umoci", "insert", "--image", f"{self.layout}:{tag}", "--opaque", source, directory)

    def raw(self, tag: str, layer: bytes) -> None:
        """Add a layer as it is, whatever it holds."""
        path = self._fresh("layer")
        path.write_bytes(layer)
        self.run("umoci", "raw", "add-layer", "--image", f"{self.layout}:{tag}", path)

    def unpacked(self, tag: str) -> Path:
        """Return the root file system that umoci makes of an image."""
        return self._bundle(tag) / "rootfs"

    def push(self, tag: str, pusher: Pusher, repository: str, media_type: str, compression: str) -> str:
        """Bring an image to a registry in one of the six forms that images have there, and return its reference.

        skopeo does whatever skopeo can: it compresses all that goes to a registry, and has no zstd for Docker's
        schema 2, though other tools push both.
        """
        if compression == "gzip" or (compression == "zstd" and media_type == OCI_MANIFEST):
            return self._copy(tag, pusher, repository, media_type, compression)
        directory = self._fresh("plain")
        form = "oci" if media_type == OCI_MANIFEST else "v2s2"
        options = ["--format", form, "--dest-decompress"]
        if compression == "zstd":
            options = ["--format", "oci", "--dest-compress", "--dest-compress-format", "zstd"]
        self._skopeo(*options, f"oci:{self.layout}:{tag}", f"dir:{directory}")
        return _push_directory(directory, pusher, repository, media_type)

    def _copy(self, tag: str, pusher: Pusher, repository: str, media_type: str, compression: str) -> str:
        reference = f"{pusher.address}/{repository}:v1"
        form = "oci" if media_type == OCI_MANIFEST else "v2s2"
        options = ["--dest-compress-format", compression, "--format", form, "--dest-tls-verify=false"]
        self._skopeo(*options, f"oci:{self.layout}:{tag}", f"docker://{reference}")
        return reference

    def _skopeo(self, *arguments: str) -> None:
        # skopeo remembers blobs, and where it knows one with the same content it pushes that instead of the one that it
        # was told to make; this is what its libraries look at to decide where to keep their memory: a new one each time
        memory = {"_CONTAINERS_ROOTLESS_UID": "1", "XDG_DATA_HOME": str(self._fresh("memory"))}
        self.run("skopeo", "--insecure-policy", "copy", "--quiet", *arguments, **memory)

    def _bundle(self, tag: str) -> Path:
        bundle = self._fresh("bundle")
        self.run("umoci", "unpack", "--image", f"{self.layout}:{tag}", bundle)
        return bundle

    def _fresh(self, what: str) -> Path:
        return self.directory / f"{what}-{next(self._numbers)}"


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, directory: Path) -> None:
        self._environment = _private_environment(directory) | {"BUILDAH_ISOLATION": "chroot"}
        self._policy = directory / "policy.json"
        self._policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._storage = ["--root", str(directory / "root"), "--runroot", str(directory / "run")]

    def run(self, command: str, *arguments: str | Path) -> str:
        """Run one of its commands, and give what it prints."""
        done = subprocess.run(
            ["buildah", *self._storage, "--storage-driver", "vfs", command, *map(str, arguments)],
            check=False, capture_output=True, text=True, env=self._environment, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (command, arguments, done.stderr[-2000:])
        return done.stdout.strip()

    def commit(self, container: str, reference: str) -> None:
        """Push a working container as an image."""
        options = ["--quiet", "--tls-verify=false", "--signature-policy", str(self._policy)]
        self.run("commit", *options, container, f"docker://{reference}")


def layer_types(manifest: bytes) -> set[str]:
    """Return the media types of a manifest's layers."""
    return {layer["mediaType"] for layer in json.loads(manifest)["layers"]}


def layer_type(media_type: str, compression: str) -> str:
    """Return the media type that layers of an image have in one of its forms."""
    base = OCI_LAYER if media_type == OCI_MANIFEST else DOCKER_LAYER
    return f"{base}{_SUFFIXES[media_type]}{compression}" if compression else base


def _push_directory(directory: Path, pusher: Pusher, repository: str, media_type: str) -> str:
    """Push what `skopeo copy` has put into a directory, each blob called by its digest."""
    document: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    document |= {"mediaType": media_type}
    for descriptor in (document["config"], *document["layers"]):
        content = (directory / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        assert pusher.blob(repository, content) == descriptor["digest"]
    document["config"]["mediaType"] = _CONFIGS[media_type]
    if media_type == DOCKER_MANIFEST:  # as Docker spells them: skopeo does not where it refuses to make them
        for layer in document["layers"]:
            layer["mediaType"] = layer["mediaType"].replace(OCI_LAYER, DOCKER_LAYER).replace("tar+", "tar.")
    pusher.manifest(repository, "v1", json.dumps(document).encode(), media_type)
    return f"{pusher.address}/{repository}:v1"


def _private_environment(directory: Path) -> dict[str, str]:
    """Keep what the tools write for themselves below `directory`."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    private = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "TMPDIR"), str(home))
    return {**os.environ, **private}
