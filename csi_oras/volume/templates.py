"""Templates: `${pvc.metadata.name}` and its like in references, as other CSI drivers spell them."""

import re
from collections.abc import Mapping

from csi_oras.errors import InvalidRequestError, printable

_TEMPLATE = re.compile(r"\$\{([^}]*)\}")
_SAFE_VALUE = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")

_POD = {
    "pod.metadata.name": "csi.storage.k8s.io/pod.name",
    "pod.metadata.namespace": "csi.storage.k8s.io/pod.namespace",
    "pod.metadata.uid": "csi.storage.k8s.io/pod.uid",
}
_CLAIM = {
    "pvc.metadata.name": "csi.storage.k8s.io/pvc/name",
    "pvc.metadata.namespace": "csi.storage.k8s.io/pvc/namespace",
    "pv.metadata.name": "csi.storage.k8s.io/pv/name",
}


def pod_variables(context: Mapping[str, str]) -> dict[str, str]:
    """Return what an inline volume's templates may name, from what the kubelet says of the pod."""
    return _pick(_POD, context)


def claim_variables(context: Mapping[str, str]) -> dict[str, str]:
    """Return what a claim's templates may name, from what external-provisioner says with --extra-create-metadata."""
    return _pick(_CLAIM, context)


def _pick(keys: Mapping[str, str], context: Mapping[str, str]) -> dict[str, str]:
    return {variable: context[key] for variable, key in keys.items() if context.get(key)}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace each `${variable}` of `text`.

    Raises:
        InvalidRequestError: a variable that is not there, or whose value could change what the text means.
    """

    def replacement(match: re.Match[str]) -> str:
        value = variables.get(match[1])
        if value is None:
            known = ", ".join(f"${{{name}}}" for name in sorted(variables)) or "none"
            raise InvalidRequestError(
                f'reference "{printable(text, 120)}"',
                f'"{printable(match[0], 80)}" is not known for this volume (known here: {known})',
                "pvc and pv templates work in a StorageClass, pod templates in an inline volume",
            )
        if not _SAFE_VALUE.fullmatch(value):
            raise InvalidRequestError(f"template {match[0]}", f'"{printable(value, 80)}" cannot stand in a reference')
        return value

    return _TEMPLATE.sub(replacement, text)
