"""What a registry says is quoted on the pod's event, unless it repeats the credential."""

import base64
import json
from urllib.parse import quote_plus

import pytest

from csi_oras.errors import AccessDeniedError
from csi_oras.oci.reference import Repository
from csi_oras.registry.credentials import Credential
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from csi_oras.telemetry.secrets import Secret
from tests.support import fake_server
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request
from tests.support.fakes import Connect, user
from tests.support.planted import planted

pytest_plugins = ["tests.support.fake_fixtures"]
_PLANTED = planted("correct horse+battery/")


@pytest.mark.parametrize(
    ("said", "is_quoted"),
    [
        ("no pull for you", True),
        (f"bad password {_PLANTED}", False),
        (f"bad header {base64.b64encode(f'user:{_PLANTED}'.encode()).decode()}", False),
        (f"bad query ?password={quote_plus(_PLANTED)}", False),
    ],
    ids=["other words", "password", "header", "query"],
)
@pytest.mark.row("D13")
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


@pytest.mark.parametrize("credential", [None, user("me", "password")], ids=["anonymous", "of a user"])
@pytest.mark.row("D13")
def test_refusal_that_repeats_the_token_it_was_sent_is_not_quoted(
    fake: FakeRegistry, connect: Connect, credential: Credential | None
) -> None:
    fake.require_tokens(me="password", anonymous=True)

    def repeat(request: Request, answer: Answer) -> Answer:
        said = {"errors": [{"code": "DENIED", "message": f"no access with {request.authorization}"}]}
        return Answer(status=403, body=json.dumps(said).encode()) if request.authorization else answer

    fake.bend("/manifests/", repeat)
    for _ in range(2):  # with a new token, and with one that is known
        with pytest.raises(AccessDeniedError) as caught:
            connect(credential=credential).manifest("v1", limit=1 << 20)
        assert "no access" not in caught.value.message
