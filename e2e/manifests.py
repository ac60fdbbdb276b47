"""The manifests of deploy/daemonset, with what the cluster under test needs otherwise, and nothing else changed."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from e2e.cluster import kubectl
from tests.support import workflow

BASE = Path(__file__).resolve().parent.parent / "deploy" / "daemonset"
IMAGE = "ghcr.io/csi-oras/csi-oras"
SYSTEM = "csi-oras"
"""The namespace of the driver."""
NAMESPACE = "csi-oras-e2e"
"""The namespace of the pods."""
WRITTEN = f"{workflow.ADDRESS}/written"
"""Where the pods of that namespace may push to: the registry of the workflow, in repositories of their own."""
_HOSTS = "/etc/csi-oras-hosts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """A registry that wants a credential."""

    registry: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment says of the cluster; the package's docstring lists the variables."""

    registry: str
    private: Private | None
    image: str
    sidecars: str
    kubelet_dir: str
    host_network: bool
    api: str
    pod_image: str
    registry_image: str

    @classmethod
    def of_environment(cls) -> Self:
        """Read the variables."""

        def value(name: str, default: str = "") -> str:
            return os.environ.get(f"CSI_ORAS_E2E_{name}") or default

        username, password = value("PRIVATE_USERNAME"), value("PRIVATE_PASSWORD")
        private = value("PRIVATE_REGISTRY")
        return cls(
            registry=value("REGISTRY"),
            private=Private(registry=private, username=username, password=password) if private else None,
            image=os.environ.get("CSI_ORAS_IMAGE", ""),
            sidecars=value("SIDECARS", "registry.k8s.io/sig-storage"),
            kubelet_dir=value("KUBELET_DIR", "/var/lib/kubelet"),
            host_network=value("HOST_NETWORK") == "true",
            api=value("API"),
            pod_image=value("POD_IMAGE", "busybox:1.37"),
            registry_image=value("REGISTRY_IMAGE", "registry:3.0.0"),
        )


def deployment(settings: Settings) -> str:
    """Return the base as the cluster gets it: through an overlay, and with the kubelet directory that it has."""
    with tempfile.TemporaryDirectory() as directory:
        overlay = Path(directory).resolve()
        (overlay / "policy.yaml").write_text(yaml.safe_dump(_policy()))
        (overlay / "hosts.toml").write_text(workflow.HOSTS)
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(_overlay(settings, overlay)))
        rendered = kubectl("kustomize", str(overlay))
    return rendered.replace("/var/lib/kubelet", settings.kubelet_dir).replace(
        "registry.k8s.io/sig-storage", settings.sidecars
    )


def example(name: str, settings: Settings) -> str:
    """Return an example with the registries, the image and the namespace of the test instead of its own."""
    text = (BASE / "examples" / f"{name}.yaml").read_text()
    replaced = {
        "registry.example.com": settings.registry,
        "busybox:1.37": settings.pod_image,
        "namespace: default": f"namespace: {NAMESPACE}",
    }
    if settings.private:
        replaced |= {
            "private.example.com": settings.private.registry,
            "example-user": settings.private.username,
            "example-password": settings.private.password,
        }
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def workflow_example(settings: Settings, *kinds: str) -> str:
    """Return the objects of these kinds that the workflow has, with the images of the test."""
    text = yaml.safe_dump_all(found for found in workflow.OBJECTS if found["kind"] in kinds)
    return text.replace("busybox:1.37", settings.pod_image).replace("registry:3.0.0", settings.registry_image)


def inline(pod: str, attributes: Mapping[str, str], settings: Settings) -> str:
    """Return the inline example as a pod of this name, with these attributes and no others."""
    document = yaml.safe_load(example("inline", settings))
    document["metadata"]["name"] = pod
    document["spec"]["volumes"][0]["csi"]["volumeAttributes"] = dict(attributes)
    return yaml.safe_dump(document)


def writer(pod: str, script: str, volume: Mapping[str, object], settings: Settings) -> str:
    """Return a pod that is not root and runs a script, once, in a volume that it may write to."""
    document = yaml.safe_load(example("inline", settings))
    document["metadata"]["name"] = pod
    spec = document["spec"]
    spec["restartPolicy"] = "Never"
    spec["securityContext"]["runAsUser"] = 1000
    spec["containers"][0] |= {"command": ["sh", "-ec", script], "workingDir": "/model"}
    spec["volumes"] = [{"name": "model", **volume}]
    return yaml.safe_dump(document)


def _policy() -> dict[str, object]:
    """Return the policy that is shipped, with what the workflow's README wants, and as much for the test's pods."""
    policy: dict[str, Any] = yaml.safe_load((BASE / "policy.yaml").read_text()) | workflow.POLICY
    policy["registries"]["hostsDirs"].append(_HOSTS)
    policy["writeBack"]["allow"].append({"namespaces": [NAMESPACE], "references": [f"{WRITTEN}/**"]})
    return policy


def _overlay(settings: Settings, directory: Path) -> dict[str, object]:
    generated = [
        {"name": "csi-oras-policy", "namespace": SYSTEM, "behavior": "merge", "files": ["policy.yaml"]},
        {"name": "csi-oras-hosts", "namespace": SYSTEM, "files": ["hosts.toml"]},
    ]
    overlay: dict[str, object] = {
        "resources": [os.path.relpath(BASE, directory)],
        "configMapGenerator": generated,
        "generatorOptions": {"disableNameSuffixHash": True, "labels": {"app.kubernetes.io/part-of": "csi-oras"}},
    }
    if settings.image:
        name, tagged, tag = settings.image.rpartition(":")
        overlay["images"] = [{"name": IMAGE, "newName": name if tagged else settings.image, "newTag": tag or "latest"}]
    patches = [_pod_patch("DaemonSet", "csi-oras-node", _hosts())]
    if settings.host_network:
        network = {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        patches += [
            _pod_patch("DaemonSet", "csi-oras-node", network),
            # on the host's network there is one of each port per node, and there may be one node only
            _pod_patch("Deployment", "csi-oras-controller", network, replicas=1),
        ]
    if settings.api:
        host, _, port = settings.api.rpartition(":")
        names = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        variables = [{"name": name, "value": value} for name, value in names.items()]
        for kind, name, container in (
            ("Deployment", "csi-oras-controller", "csi-provisioner"),
            ("DaemonSet", "csi-oras-node", "csi-oras"),
        ):
            patches.append(_pod_patch(kind, name, {"containers": [{"name": container, "env": variables}]}))
    return {**overlay, "patches": patches}


def _hosts() -> dict[str, object]:
    """Return the workflow's hosts.toml in a pod, for a test cannot put files on nodes."""
    items = [{"key": "hosts.toml", "path": f"{workflow.ADDRESS}/hosts.toml"}]
    return {
        "containers": [{"name": "csi-oras", "volumeMounts": [{"name": "workflow", "mountPath": _HOSTS}]}],
        "volumes": [{"name": "workflow", "configMap": {"name": "csi-oras-hosts", "items": items}}],
    }


def _pod_patch(kind: str, name: str, pod: Mapping[str, object], **spec: object) -> dict[str, str]:
    patch = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": SYSTEM},
        "spec": {**spec, "template": {"spec": pod}},
    }
    return {"patch": yaml.safe_dump(patch)}
