"""Pushes that break: they go on where they broke, are begun again where they have to, and end."""

import io
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from csi_oras.errors import (
    ContentChangedError,
    CsiOrasError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from csi_oras.registry.pushes import PushClient
from csi_oras.registry.sources import Readable, in_memory
from csi_oras.telemetry.progress import Counter
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Request, dripping, header, status
from tests.support.fakes import Connect
from tests.support.pushing import BLOB, CHUNK, CONTENT, ME, UPLOADS, WHOLE, held, spans

pytest_plugins = ["tests.support.fake_fixtures", "tests.support.push_fixtures"]


def test_put_that_breaks_goes_on_where_it_broke(fake: FakeRegistry, client: PushClient) -> None:
    fake.interrupt(UPLOADS, 12_345, method="PUT", times=1)
    counter = Counter(BLOB.size)
    client.upload(BLOB, in_memory(CONTENT), counter)
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == ["PUT", "PATCH 12345-22344", "PATCH 22345-30499", "PUT"]
    assert counter.done == BLOB.size


def test_chunk_that_breaks_goes_on_where_it_broke(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    fake.interrupt("uploads/1-2", 2_000, method="PATCH", times=1)
    seen: list[int] = []
    counter = Counter(BLOB.size)

    def source(offset: int) -> AbstractContextManager[Readable]:
        seen.append(offset)
        return io.BytesIO(CONTENT[offset:])

    client.upload(BLOB, source, counter)
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == ["PATCH 0-9999", "PATCH 10000-19999", "PATCH 12000-21999", "PATCH 22000-30499", "PUT"]
    assert 0 not in seen[1:]
    assert counter.done == BLOB.size


def test_source_that_changed_between_two_tries_is_never_whole(fake: FakeRegistry, client: PushClient) -> None:
    fake.interrupt(UPLOADS, 12_345, method="PUT", times=1)
    contents = iter([CONTENT, b"x" + CONTENT[1:]])
    last = [b""]

    def source(offset: int) -> AbstractContextManager[Readable]:
        last[0] = next(contents, last[0])
        return io.BytesIO(last[0][offset:])

    with pytest.raises(ContentChangedError, match="another digest"):
        client.upload(BLOB, source)
    assert held(fake) == {}
    assert fake.uploads.open == {}


def test_upload_goes_on_as_long_as_it_gets_further(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    for place in ("1-2", "1-3", "1-4"):  # three tries in a row fail, and that at three chunks: more than one budget
        fake.interrupt(f"uploads/{place}", 0, method="PATCH", times=3)
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}


def test_upload_that_gets_no_further_ends(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    fake.interrupt("uploads/.*-2", 1, method="PATCH")
    with pytest.raises(RegistryUnavailableError):
        client.upload(BLOB, in_memory(CONTENT))
    assert 4 <= fake.count("uploads/.*-2", "PATCH") <= 8


def test_upload_that_the_registry_lost_is_begun_again(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1

    def lose(_request: Request, answer: Answer) -> Answer:
        fake.uploads.open.clear()
        return answer

    fake.bend("uploads/1-1", lose, method="PATCH", times=1)
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake)[-5:] == WHOLE


def test_upload_whose_last_answer_was_lost_is_not_sent_twice(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, lambda _request, answer: replace(answer, raw=b""), method="PUT", times=1)
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == ["PUT"]


@pytest.mark.parametrize("code", [404, 405, 501, 200])
def test_registry_that_tells_nothing_of_an_upload_gets_all_of_it_again(
    fake: FakeRegistry, client: PushClient, code: int
) -> None:
    fake.interrupt(UPLOADS, 12_345, method="PUT", times=1)
    fake.bend(UPLOADS, status(code), method="GET")
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}
    assert spans(fake) == ["PUT", *WHOLE]


@pytest.mark.parametrize("said", ["0-0", "0-12345", "0-30499", "0-99999999999999999999", "x", "", "12-1"])
def test_lies_about_what_has_arrived_make_no_wrong_blob(fake: FakeRegistry, client: PushClient, said: str) -> None:
    fake.interrupt(UPLOADS, 12_345, method="PUT", times=1)
    fake.bend(UPLOADS, header(Range=said), method="GET")
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}


def test_registry_that_always_lies_about_what_has_arrived_is_given_up(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    fake.bend(UPLOADS, header(Range="0-4"), method="PATCH")
    fake.bend(UPLOADS, header(Range="0-4"), method="GET")
    with pytest.raises(RegistryUnavailableError):
        client.upload(BLOB, in_memory(CONTENT))
    assert len(spans(fake)) <= 8


def test_endless_acceptance_is_no_creation(fake: FakeRegistry, client: PushClient) -> None:
    fake.uploads.least_chunk = 1
    fake.bend(UPLOADS, status(202, Location="/v2/t/x/blobs/uploads/9-9"))
    with pytest.raises(CsiOrasError):
        client.upload(BLOB, in_memory(CONTENT))
    assert fake.count() < 30


def test_rate_limit_is_waited_for(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, status(429, Retry_After="1"), method="POST", times=1)
    fake.bend(UPLOADS, status(429, Retry_After="1"), method="PUT", times=1)
    client.upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}


def test_registry_that_never_answers_is_given_up(fake: FakeRegistry, client: PushClient) -> None:
    fake.bend(UPLOADS, dripping(b"HTTP/1.1 201 Created\r\nX: ", 0.1), method="PUT")
    fake.bend("/blobs/sha256", status(404), method="HEAD")
    with pytest.raises(RegistryUnavailableError, match="did not answer in time"):
        client.upload(BLOB, in_memory(CONTENT))


def test_token_that_ends_in_the_middle_is_renewed(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(me="right-password")
    fake.uploads.least_chunk = 1

    def expire(_request: Request, answer: Answer) -> Answer:
        fake.expire_tokens()
        return answer

    fake.bend("uploads/1-1", expire, method="PATCH", times=1)
    connect(credential=ME).pushes(CHUNK).upload(BLOB, in_memory(CONTENT))
    assert held(fake) == {str(BLOB.digest): CONTENT}


def test_credential_that_is_revoked_in_the_middle_is_a_refusal(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_basic("me", "right-password")
    for method in ("PUT", "GET", "HEAD"):
        fake.bend("/blobs/", status(401, WWW_Authenticate="Basic realm=a"), method=method)
    with pytest.raises(UnauthenticatedError, match="refuses the credential"):
        connect(credential=ME).pushes().upload(BLOB, in_memory(CONTENT))
