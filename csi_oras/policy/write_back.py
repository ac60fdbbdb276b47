"""Who may push where: node policy, asked before a pod begins to write."""

from dataclasses import dataclass

from csi_oras.errors import AccessDeniedError
from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackRule:
    """Globs over namespaces whose pods may push, and over registry/repository, with or without a tag, where to."""

    namespaces: tuple[Glob, ...]
    references: tuple[Glob, ...]

    def allows(self, namespace: str, reference: Reference) -> bool:
        """Say whether a pod of `namespace` may push to `reference` by this rule."""
        names = (str(reference.repository), f"{reference.repository}:{reference.tag or 'latest'}")
        is_known = bool(namespace) and any(glob.matches(namespace) for glob in self.namespaces)
        return is_known and any(glob.matches(name) for glob in self.references for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBackRules:
    """Whether anybody may push at all, and who where."""

    enabled: bool
    allow: tuple[WriteBackRule, ...]

    def check(self, namespace: str, reference: Reference) -> None:
        """Let a push of what a pod of `namespace` will write pass.

        Raises:
            AccessDeniedError: node policy forbids it.
        """
        if not self.enabled:
            cause, remedy = "node policy does not let volumes be written back", "writeBack.enabled"
        elif not any(rule.allows(namespace, reference) for rule in self.allow):
            cause, remedy = f"node policy does not let namespace {namespace or '(none)'} push there", "writeBack.allow"
        else:
            return
        raise AccessDeniedError(str(reference), cause, f"ask the cluster's administrator ({remedy})")
