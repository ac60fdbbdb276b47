"""Who may push where."""

import pytest

from csi_oras.errors import AccessDeniedError
from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Reference
from csi_oras.policy.write_back import WriteBackRule, WriteBackRules


def rules(*allow: tuple[str, str], enabled: bool = True) -> WriteBackRules:
    """Rules of one namespace and one reference each."""
    made = [WriteBackRule(namespaces=(Glob.parse(name),), references=(Glob.parse(glob),)) for name, glob in allow]
    return WriteBackRules(enabled=enabled, allow=tuple(made))


@pytest.mark.parametrize(
    ("rule", "namespace", "reference", "allowed"),
    [
        (("team-a", "reg.example/team-a/**"), "team-a", "reg.example/team-a/results:v1", True),
        (("team-a", "reg.example/team-a/**"), "team-b", "reg.example/team-a/results:v1", False),
        (("team-a", "reg.example/team-a/**"), "team-a", "reg.example/team-b/results:v1", False),
        (("team-a", "reg.example/team-a/**"), "team-a", "other.example/team-a/results:v1", False),
        (("team-*", "reg.example/*/results"), "team-b", "reg.example/x/results:v1", True),
        (("*", "reg.example/a:run-*"), "any", "reg.example/a:run-7", True),
        (("*", "reg.example/a:run-*"), "any", "reg.example/a:latest", False),
        (("*", "reg.example/a"), "any", "reg.example/a/b:v1", False),
        (("*", "**"), "", "reg.example/a:v1", False),
    ],
)
def test_rule_allows_its_namespaces_its_references(
    rule: tuple[str, str], namespace: str, reference: str, *, allowed: bool
) -> None:
    if allowed:
        rules(rule).check(namespace, Reference.parse(reference))
        return
    with pytest.raises(AccessDeniedError, match=r"writeBack\.allow"):
        rules(rule).check(namespace, Reference.parse(reference))


def test_nobody_may_push_where_write_back_is_off() -> None:
    with pytest.raises(AccessDeniedError, match=r"writeBack\.enabled"):
        rules(("*", "**"), enabled=False).check("team-a", Reference.parse("reg.example/a:v1"))


def test_nobody_may_push_where_no_rule_says_so() -> None:
    with pytest.raises(AccessDeniedError, match="does not let namespace team-a push there"):
        rules().check("team-a", Reference.parse("reg.example/a:v1"))
