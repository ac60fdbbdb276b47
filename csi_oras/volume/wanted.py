"""What a volume asks of its registry: the artifact, and the credential that the volume itself brings."""

from csi_oras.errors import UnauthenticatedError
from csi_oras.oci.platform import Platform
from csi_oras.registry.keychain import Keychain
from csi_oras.transfer.request import PullRequest
from csi_oras.volume.request import PublishRequest


class Wanted:
    """Makes pulls of publishes."""

    def __init__(self, keychain: Keychain, platform: Platform) -> None:
        """Take `platform`, the node's, where a volume names none."""
        self._keychain = keychain
        self._platform = platform

    def pull(self, request: PublishRequest, *, lazy: bool = False) -> PullRequest:
        """Return the pull that a publish wants.

        Raises:
            UnauthenticatedError: its secret cannot be understood.
        """
        attributes = request.attributes
        reference = attributes.reference
        try:
            found = self._keychain.of_volume(request.secret, request.tokens, reference.repository)
        except UnauthenticatedError as error:
            raise error.about(f"{reference}: {error.subject}") from error
        return PullRequest(
            reference=reference,
            platform=attributes.platform or self._platform,
            selection=attributes.selection,
            policy=attributes.pull_policy,
            credential=found.credential,
            tried=found.tried,
            lazy=lazy,
        )
