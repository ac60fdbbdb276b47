"""Signatures: whether node policy wants one on an artifact, and whether there is one that it accepts."""

import time
from typing import Any

from csi_oras import config, in_force
from csi_oras.doctor.check import SECONDS, Check, Finding
from csi_oras.oci.digest import Digest
from csi_oras.policy.signatures import VerificationRule
from csi_oras.registry.client import RepositoryClient
from csi_oras.transfer.verify import SignatureSearch

_REMEDY = "sign it with cosign, or change verification in the policy file"


def look(policy: config.Policy, client: RepositoryClient, signable: tuple[Digest, Digest]) -> Finding:
    """Look for a signature for each rule that the repository falls under, of a root or of the manifest it leads to."""
    rules = [rule for rule in in_force.verification(policy) if rule.match.matches(str(client.repository))]
    if not rules:
        unwanted = Check.ok("signature", "no rule of node policy wants one")
        return Finding(checks=(unwanted,), document={"verification": []})
    digests = list(dict.fromkeys(signable))
    files = {key.key.fingerprint: key.path for rule in policy.verification for key in rule.cosign_keys}
    found = [_search(rule, client, digests, files) for rule in rules]
    checks, documents = zip(*found, strict=True)
    return Finding(checks=checks, document={"verification": list(documents)})


def _search(
    rule: VerificationRule, client: RepositoryClient, digests: list[Digest], files: dict[str, str]
) -> tuple[Check, dict[str, Any]]:
    search = SignatureSearch(client, rule, time.monotonic() + SECONDS)
    found = search.run(digests)
    where = f'verification "{rule.match.pattern}", {rule.mode}'
    if found:
        digest, fingerprint = found
        check = Check.ok("signature", f"{digest} is signed by the key in {files[fingerprint]} ({where})")
    elif rule.enforce:
        check = Check.failed("signature", f"{search.cause} ({where})", _REMEDY)
    else:
        check = Check.warning("signature", f"{search.cause} ({where})", _REMEDY)
    document = {
        "match": rule.match.pattern,
        "mode": rule.mode,
        "state": check.state,
        "message": check.message,
        "keyFile": files[found[1]] if found else None,
    }
    return check, document
