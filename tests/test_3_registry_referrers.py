"""Lists of referrers: by the interface, by the tag, in pages, and from registries that abuse it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from csi_oras.errors import BadResponseError, HostileContentError, LimitExceededError, RegistryUnavailableError
from csi_oras.oci.digest import Digest
from tests.support.artifacts import OCI_INDEX, OCI_MANIFEST
from tests.support.fake_registry import FakeRegistry, basic
from tests.support.fake_server import Answer, Bend, FakeServer, Request, redirect, status
from tests.support.fakes import Connect, user

pytest_plugins = ["tests.support.fake_fixtures"]

SUBJECT = Digest.of(b"subject")
PATH = f"/v2/t/x/referrers/{SUBJECT}"
SIGNATURE, REPORT = "application/x-signature", "application/x-report"


def entry(name: str, artifact_type: str = SIGNATURE) -> dict[str, Any]:
    return {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(name.encode())),
        "size": 10,
        "artifactType": artifact_type,
    }


def index(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def listing(*entries: dict[str, Any], **headers: str) -> Answer:
    return Answer(body=index(*entries)).having(Content_Type=OCI_INDEX, **headers)


def always(answer: Answer) -> Bend:
    return lambda _request, _answer: answer


def test_list_is_read_whole_or_of_one_type(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(listing(entry("a"), entry("b", REPORT))))
    assert [found.artifact_type for found in connect().referrers(SUBJECT)] == [SIGNATURE, REPORT]
    # a registry need not filter, and this one does not
    assert [found.digest for found in connect().referrers(SUBJECT, SIGNATURE)] == [Digest.of(b"a")]
    assert fake.seen(PATH)[-1].query == {"artifactType": SIGNATURE}


@pytest.mark.parametrize("code", [400, 404, 405, 406, 501])
def test_registry_without_the_interface_is_asked_for_the_tag(fake: FakeRegistry, connect: Connect, code: int) -> None:
    fake.bend(PATH, status(code))
    assert connect().referrers(SUBJECT) == []
    fake.manifest("t/x", f"sha256-{SUBJECT.encoded}", index(entry("a"), entry("b", REPORT)), OCI_INDEX)
    assert [found.digest for found in connect().referrers(SUBJECT, REPORT)] == [Digest.of(b"b")]


def test_page_for_people_is_no_list(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(Answer(body=b"<html>").having(Content_Type="text/html")))
    assert connect().referrers(SUBJECT) == []


def test_tag_of_a_long_digest_is_cut_to_what_a_tag_may_be(fake: FakeRegistry, connect: Connect) -> None:
    long = Digest("sha512", "ab" * 64)
    fake.manifest("t/x", f"sha512-{'ab' * 32}", index(entry("a")), OCI_INDEX)
    assert [found.digest for found in connect().referrers(long)] == [Digest.of(b"a")]


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_pages_are_followed(fake: FakeRegistry, connect: Connect, *, absolute: bool) -> None:
    def page(request: Request, _answer: Answer) -> Answer:
        number = int(request.query.get("page", 0))
        link = f"{fake.url(PATH) if absolute else PATH}?page={number + 1}"
        return listing(entry(str(number)), **({"Link": f'<{link}>; rel="next"'} if number < 3 else {}))

    fake.bend(PATH, page)
    assert [found.digest for found in connect().referrers(SUBJECT)] == [
        Digest.of(b"%d" % number) for number in range(4)
    ]


@pytest.mark.row("D5")
def test_pages_without_end_are_cut_off(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(listing(entry("a"), Link=f'<{PATH}?again=1>; rel="next"')))
    connect().referrers(SUBJECT)
    assert fake.count(PATH) == 10


@pytest.mark.parametrize(
    "link",
    [
        "http://169.254.169.254/latest",
        "//evil.example/x",
        "file:///etc/hostname",
        "http://[::1/x",
        "https://{address}/x",
    ],
)
@pytest.mark.row("D5")
def test_page_elsewhere_is_refused(fake: FakeRegistry, connect: Connect, link: str) -> None:
    link = link.format(address=fake.address)
    fake.bend(PATH, always(listing(entry("a"), Link=f'<{link}>; rel="next"')))
    with pytest.raises(BadResponseError):
        connect().referrers(SUBJECT)


@pytest.mark.row("D5")
def test_page_of_another_host_is_never_asked_for(fake: FakeRegistry, evil: FakeServer, connect: Connect) -> None:
    fake.require_basic("me", "right")
    fake.bend(PATH, always(listing(entry("a"), Link=f'<{evil.url(PATH)}>; rel="next"')))
    with pytest.raises(BadResponseError, match="another host"):
        connect("t/x", user("me", "right")).referrers(SUBJECT)
    assert evil.count() == 0


def test_redirected_list_is_read_without_the_credential(fake: FakeRegistry, evil: FakeServer, connect: Connect) -> None:
    fake.require_basic("me", "right")
    fake.bend(
        PATH, lambda request, answer: redirect(evil.url("/x"))(request, answer) if request.authorization else answer
    )
    evil.bend("/x", always(listing(entry("a"))))
    assert connect("t/x", user("me", "right")).referrers(SUBJECT)
    assert fake.credentials_seen() == [basic("me", "right")]
    assert evil.credentials_seen() == []


def test_link_to_another_path_stays_with_the_list(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(listing(entry("a"), Link='</v2/other/tags/list?page=2>; rel="next"')), times=1)
    fake.bend(PATH, always(listing(entry("b"))))
    assert len(connect().referrers(SUBJECT)) == 2
    assert fake.count("/v2/other") == 0


@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(b" " * (5 << 20), BadResponseError, id="5 MiB"),
        pytest.param(index(*[entry("a")] * 10_001), LimitExceededError, id="10,001 entries"),
        pytest.param(b"<html>", BadResponseError, id="no JSON"),
        pytest.param(b'{"schemaVersion": 2, "manifests": 5}', HostileContentError, id="no list"),
        pytest.param(index({**entry("a"), "digest": "sha256:../../x"}), HostileContentError, id="no digest"),
    ],
)
def test_list_that_is_none_is_refused(
    fake: FakeRegistry, connect: Connect, content: bytes, error: type[Exception]
) -> None:
    fake.bend(PATH, always(replace(listing(), body=content)))
    with pytest.raises(error):
        connect().referrers(SUBJECT)


def test_list_that_cannot_be_had_is_no_empty_one(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, status(503))
    with pytest.raises(RegistryUnavailableError):
        connect().referrers(SUBJECT)


def test_list_is_asked_for_again_after_a_failure(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, status(503), times=2)
    fake.bend(PATH, always(listing(entry("a"))))
    assert len(connect().referrers(SUBJECT)) == 1
