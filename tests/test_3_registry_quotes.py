"""What a registry says is quoted on the pod's event, unless it repeats the credential."""

import base64
import json

import pytest

from csi_oras.errors import AccessDeniedError
from csi_oras.oci.reference import Repository
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from csi_oras.telemetry.secrets import Secret
from tests.support import fake_server
from tests.support.fake_registry import FakeRegistry
from tests.support.planted import planted

pytest_plugins = ["tests.support.fake_fixtures"]
_PLANTED = planted("correct-horse-battery")


@pytest.mark.parametrize(
    ("said", "is_quoted"),
    [
        ("no pull for you", True),
        (f"bad password {_PLANTED}", False),
        (f"bad header {base64.b64encode(f'user:{_PLANTED}'.encode()).decode()}", False),
    ],
)
def test_refusal_is_quoted_unless_it_repeats_the_credential(fake: FakeRegistry, said: str, *, is_quoted: bool) -> None:
    body = json.dumps({"errors": [{"code": "DENIED", "message": said}]}).encode()
    fake.bend("/manifests/", fake_server.status(403, body))
    credential = Credential(username="user", password=Secret(_PLANTED), source="the volume's secret")
    transport = Transport()
    client = Registries(transport).repository(Repository(registry=fake.address, name="a/b"), credential)
    with pytest.raises(AccessDeniedError) as caught:
        client.manifest("v1", limit=1 << 20)
    transport.close()
    assert (said in caught.value.message) is is_quoted
    assert _PLANTED not in caught.value.message
