"""Anonymous, basic and bearer access; which token goes with which request, and when it is asked for anew."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import AccessDeniedError, BadResponseError, RegistryUnavailableError, UnauthenticatedError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.oci.reference import Repository
from csi_oras.registry.origin import Origin
from csi_oras.registry.tokens import Access, Tokens
from csi_oras.registry.transport import Transport
from tests.support.artifacts import files
from tests.support.fake_registry import FakeRegistry, basic, bearer
from tests.support.fake_server import Answer, Request, body, redirect, status
from tests.support.fakes import Connect, user

pytest_plugins = ["tests.support.fake_fixtures"]

LIMIT = 1 << 20
ME = user("me", "right-password")


@pytest.fixture(autouse=True)
def artifact(fake: FakeRegistry) -> None:
    for repository in ("t/x", "t/y"):
        fake.artifact(repository, files(a=b"alpha"))


def test_manifest_of_an_open_registry_is_read_with_no_authorization(fake: FakeRegistry, connect: Connect) -> None:
    assert connect(credential=ME).manifest("v1", limit=LIMIT).content == fake.manifests["t/x"]["v1"][0]
    assert fake.credentials_seen() == []


def test_basic_registry_with_the_right_password_asks_once_and_remembers(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_basic("me", "right-password")
    client = connect(credential=ME)
    for _ in range(3):
        client.manifest("v1", limit=LIMIT)
    assert [request.authorization for request in fake.seen()] == ["", *[basic("me", "right-password")] * 3]


@pytest.mark.parametrize(
    ("credential", "message"),
    [
        (None, "wants a credential.*nodePublishSecretRef"),
        (user("me", "wrong-password"), "refuses the credential from the volume's secret.*correct the secret"),
    ],
    ids=["none", "wrong"],
)
def test_basic_registry_without_the_right_password_is_unauthenticated(
    fake: FakeRegistry, connect: Connect, credential: None, message: str
) -> None:
    fake.require_basic("me", "right-password")
    with pytest.raises(UnauthenticatedError, match=message) as caught:
        connect(credential=credential).manifest("v1", limit=LIMIT)
    assert "wrong-password" not in str(caught.value)


@pytest.mark.row("D16")
def test_bearer_registry_gets_a_token_for_pull_only_with_the_credential_at_the_realm(
    fake: FakeRegistry, connect: Connect
) -> None:
    fake.require_tokens(me="right-password")
    connect(credential=ME).manifest("v1", limit=LIMIT)
    first, token, second = fake.seen()
    assert (first.authorization, second.authorization) == ("", bearer(1))
    assert token.authorization == basic("me", "right-password")
    assert token.query == {"service": "fake", "scope": "repository:t/x:pull"}  # not what the challenge would give us


def test_bearer_registry_gives_an_anonymous_token(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(anonymous=True)
    connect().manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == [bearer(1)]


@pytest.mark.parametrize(
    ("credential", "message"),
    [(None, "gives no anonymous token"), (user("me", "wrong-password"), "refused the credential from the volume's")],
    ids=["none", "wrong"],
)
def test_bearer_registry_without_the_right_password_is_unauthenticated(
    fake: FakeRegistry, connect: Connect, credential: None, message: str
) -> None:
    fake.require_tokens(me="right-password")
    with pytest.raises(UnauthenticatedError, match=message) as caught:
        connect(credential=credential).manifest("v1", limit=LIMIT)
    assert "wrong-password" not in str(caught.value)


def test_token_that_reads_another_repository_only_is_denied(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    fake.bend("/manifests/", status(403, b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m way"}]}'))
    with pytest.raises(AccessDeniedError, match=r'to the credential from the volume\'s secret \("no\\x1b\[31m way"\)'):
        connect(credential=ME).manifest("v1", limit=LIMIT)


def test_token_is_kept_for_each_repository_action_and_credential(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password", you="your-password")
    blob = Descriptor.of(b"alpha", "a/b")
    for _ in range(2):  # the second round is served by what the first one learned
        connect("t/x", ME).manifest("v1", limit=LIMIT)
        connect("t/y", ME).manifest("v1", limit=LIMIT)
        connect("t/x", user("you", "your-password")).manifest("v1", limit=LIMIT)
        connect("t/x", ME).pushes().has_blob(blob.digest)
    asked = [(request.authorization, request.query["scope"]) for request in fake.seen("/token")]
    me, you = basic("me", "right-password"), basic("you", "your-password")
    assert asked == [
        (me, "repository:t/x:pull"),
        (me, "repository:t/y:pull"),
        (you, "repository:t/x:pull"),
        (me, "repository:t/x:pull,push"),
    ]


def test_token_of_one_registry_is_not_sent_to_another_port(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    connect(credential=ME).manifest("v1", limit=LIMIT)
    with FakeRegistry() as other:
        other.artifact("t/x", files(a=b"alpha"))
        connect(credential=ME, host=other.address).manifest("v1", limit=LIMIT)
        assert other.credentials_seen() == []


def test_anonymous_request_never_uses_the_token_of_a_user(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    connect(credential=ME).manifest("v1", limit=LIMIT)
    with pytest.raises(UnauthenticatedError):
        connect().manifest("v1", limit=LIMIT)


def test_expired_token_is_renewed_once(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    client = connect(credential=ME)
    client.manifest("v1", limit=LIMIT)
    fake.expire_tokens()
    client.manifest("v1", limit=LIMIT)
    assert fake.count("/token") == 2
    assert [request.authorization for request in fake.seen("/manifests/")] == [
        "", bearer(1), bearer(1), bearer(2),
    ]  # fmt: skip


def test_expired_token_in_a_put_of_a_manifest_is_renewed(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    client = connect(credential=ME).pushes()
    client.put_manifest("one", b"{}", "application/vnd.oci.image.manifest.v1+json")
    fake.expire_tokens()
    client.put_manifest("two", b"{}", "application/vnd.oci.image.manifest.v1+json")
    assert fake.manifests["t/x"]["two"][0] == b"{}"


def test_token_that_never_works_is_not_asked_for_without_end(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    fake.bend("/manifests/", status(401, WWW_Authenticate=f'Bearer realm="{fake.url("/token")}"'))
    with pytest.raises(UnauthenticatedError):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert (fake.count("/manifests/"), fake.count("/token")) == (2, 1)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({}, 30),
        ({"expires_in": 300}, 150),
        ({"expires_in": -1}, 30),
        ({"expires_in": 0}, 30),
        ({"expires_in": True}, 30),
        ({"expires_in": "300"}, 30),
        ({"expires_in": 1e18}, 30),
        ({"expires_in": 10**18}, 3600),
        ({"expires_in": 10**400}, 3600),
    ],
    ids=str,
)
@pytest.mark.row("D16")
def test_token_lives_half_of_what_it_says_within_bounds(
    fake: FakeRegistry, transport: Transport, answer: dict[str, object], seconds: int
) -> None:
    fake.require_tokens(anonymous=True)
    fake.bend("/token", body(json.dumps({"token": "abc", **answer}).encode()))
    now = [1000.0]
    tokens = Tokens(transport, lambda: now[0])
    access = Access(Origin.of(fake.url()), Repository(registry=fake.address, name="t/x"), "pull", None)
    assert tokens.answer(access, f'Bearer realm="{fake.url("/token")}"')
    now[0] += seconds - 0.1
    assert tokens.header(access)
    now[0] += 0.2
    assert tokens.header(access) is None


@pytest.mark.parametrize(
    "answer",
    [
        b'{"token":"abc\\r\\nX-Evil: 1"}',
        b'{"token":"a b"}',
        b'{"token":"\\u00e9"}',
        b'{"token":""}',
        b'{"token":5}',
        b'{"token":null}',
        b"{}",
        b"[]",
        b"abc.secret-token.def",
        b'{"token":"secret-token","token":"b"}',
        b"[" * 30_000,
        b"<html>log in</html>",
        b"\x1f\x8b\x08\x00garbage",
    ],
    ids=lambda answer: repr(answer[:30]),
)
@pytest.mark.row("D16")
def test_token_answer_that_holds_none_is_refused_unquoted(fake: FakeRegistry, connect: Connect, answer: bytes) -> None:
    fake.require_tokens(anonymous=True)
    fake.bend("/token", body(answer))
    with pytest.raises(BadResponseError, match="sent no usable token") as caught:
        connect().manifest("v1", limit=LIMIT)
    assert "secret-token" not in str(caught.value)
    assert fake.credentials_seen() == []


@pytest.mark.row("D16")
def test_token_answer_with_both_spellings_uses_token(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(anonymous=True)
    fake.bend("/token", lambda _, answer: replace(answer, body=b'{"access_token":"other",' + answer.body[1:]))
    connect().manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == [bearer(1)]


@pytest.mark.row("D16")
def test_token_answer_that_is_too_large_is_cut_off(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(anonymous=True)
    fake.bend("/token", body(json.dumps({"token": "a" * (64 << 10)}).encode()))
    with pytest.raises(BadResponseError, match="more than the 65536 bytes"):
        connect().manifest("v1", limit=LIMIT)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_token_endpoint_that_fails_for_a_moment_is_asked_again(fake: FakeRegistry, connect: Connect, code: int) -> None:
    fake.require_tokens(anonymous=True)
    fake.bend("/token", status(code), times=2)
    connect().manifest("v1", limit=LIMIT)
    assert fake.count("/token") == 3


def test_token_endpoint_that_redirects_is_not_followed(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    fake.bend("/token", redirect("/elsewhere"))
    with pytest.raises(UnauthenticatedError, match="status 307"):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert fake.count("/elsewhere") == 0


@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="a", Bearer realm="{realm}",service="s"',
        'Bearer realm="{realm}" , Basic realm=a',
        'bEaReR REALM="{realm}"',
        "Bearer realm={realm}",
        'Bearer scope="a,b",realm="{realm}",error="x\\"y"',
        'Negotiate, Bearer realm="{realm}"',
    ],
)
@pytest.mark.row("D17")
def test_challenge_in_any_spelling_is_understood(fake: FakeRegistry, connect: Connect, challenge: str) -> None:
    fake.require_tokens(me="right-password")
    realm = fake.url("/token")

    def spell(_request: Request, answer: Answer) -> Answer:
        return answer.having(WWW_Authenticate=challenge.format(realm=realm)) if answer.status == 401 else answer

    fake.bend("/manifests/", spell)
    assert connect(credential=ME).manifest("v1", limit=LIMIT)


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="/token"',
        'Bearer realm="http://127.0.0.1/tok',
        "Bearer realm=" + "a" * 60_000,
    ],
    ids=lambda challenge: challenge[:30],
)
@pytest.mark.row("D17")
def test_challenge_without_a_usable_realm_is_refused(fake: FakeRegistry, connect: Connect, challenge: str) -> None:
    fake.bend("/manifests/", status(401, WWW_Authenticate=challenge))
    with pytest.raises(BadResponseError):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == []


@pytest.mark.parametrize("challenge", ["", ",,,", "=", '"', "Digest realm=a", "\xff", "Basic" * 10_000])
@pytest.mark.row("D17")
def test_challenge_that_nobody_can_answer_is_unauthenticated(
    fake: FakeRegistry, connect: Connect, challenge: str
) -> None:
    fake.bend("/manifests/", status(401, WWW_Authenticate=challenge))
    with pytest.raises(UnauthenticatedError):
        connect(credential=ME).manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == []


@pytest.mark.row("D20")
def test_environment_names_no_proxy_and_no_credential(
    fake: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", f"{tmp_path}/.netrc")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password right-password\n")
    fake.require_basic("me", "right-password")
    with pytest.raises(UnauthenticatedError):
        connect().manifest("v1", limit=LIMIT)
    assert fake.credentials_seen() == []


def test_registry_that_stays_down_is_unavailable_after_four_attempts(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/manifests/", status(503))
    with pytest.raises(RegistryUnavailableError, match=r"status 503.*tried again"):
        connect().manifest("v1", limit=LIMIT)
    assert fake.count("/manifests/") == 4


def test_many_threads_share_a_token_once_it_is_there(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    client = connect(credential=ME)
    client.manifest("v1", limit=LIMIT)
    threads = [threading.Thread(target=client.manifest, args=("v1",), kwargs={"limit": LIMIT}) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.count("/token") == 1
    assert fake.count("/manifests/") == 18
