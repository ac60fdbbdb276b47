"""Service accounts: the token that the cluster gives a pod, where node policy says that a registry takes it.

The kubelet brings the tokens with each publish (CSIDriver `tokenRequests`), as JSON by audience:
`{"registry.example.com": {"token": "…", "expirationTimestamp": "…"}}`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from csi_oras.oci.glob import Glob
from csi_oras.oci.reference import Repository
from csi_oras.registry.credentials import Credential, CredentialKind
from csi_oras.telemetry.secrets import Secret

USERNAME = "serviceaccount"
"""Goes with the token as password: token servers look at the token alone (OpenShift writes the same name)."""
SOURCE = "the pod's service-account token"
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountRule:
    """Repositories whose registry takes service-account tokens of an audience."""

    match: Glob
    audience: str


Note = Callable[[str], None]


def find(
    rules: tuple[ServiceAccountRule, ...], tokens: Secret | None, repository: Repository, note: Note
) -> Credential | None:
    """Return the token for `repository` by the first rule that names it; `note` hears why there is none."""
    rule = next((rule for rule in rules if rule.match.matches(str(repository))), None)
    if rule is None:
        note("not for this repository by policy" if rules else "not in policy")
        return None
    if tokens is None:
        note("not sent by the kubelet, see tokenRequests of the CSIDriver")
        return None
    token = _token(tokens, rule.audience)
    if token is None:
        note(f'none for audience "{rule.audience}"')
        return None
    return Credential(username=USERNAME, password=token, source=SOURCE, kind=CredentialKind.SERVICE_ACCOUNT)


def _token(tokens: Secret, audience: str) -> Secret | None:
    text = tokens.reveal()
    try:
        document: Any = json.loads(text) if len(text) <= _LARGEST else None
    except (ValueError, RecursionError):
        return None
    entry = document.get(audience) if isinstance(document, dict) else None
    token = entry.get("token") if isinstance(entry, dict) else None
    # a token is sent in a header and a form; a JWT is nothing but such characters
    return Secret(token) if isinstance(token, str) and token.isascii() and token.isprintable() and token else None
