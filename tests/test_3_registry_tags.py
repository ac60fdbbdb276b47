"""Lists of tags: whole, in pages by Link or by the last tag, and from registries that abuse it."""

import json
from typing import Any

import pytest

from csi_oras.errors import ArtifactNotFoundError, BadResponseError, HostileContentError, RegistryUnavailableError
from csi_oras.oci.reference import Repository
from csi_oras.registry.registries import Registries
from csi_oras.registry.transport import Transport
from tests.support.artifacts import Pusher, files
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_server import Answer, Bend, FakeServer, Request, status
from tests.support.fakes import Connect, user

pytest_plugins = ["tests.support.fake_fixtures"]

PATH = "/v2/t/x/tags/list"


def page(tags: Any, **headers: str) -> Answer:
    content = json.dumps({"name": "t/x", "tags": tags}).encode()
    return Answer(body=content).having(Content_Type="application/json", **headers)


def always(answer: Answer) -> Bend:
    return lambda _request, _answer: answer


@pytest.mark.needs("registry")
def test_tags_of_a_real_registry_are_listed_in_pages(
    pusher: Pusher, repository: str, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csi_oras.registry.tags.PAGE", 2)
    wanted = [f"v{number}" for number in range(5)]
    for tag in wanted:
        pusher.artifact(repository, files(x=tag.encode()), tag)
    client = Registries(transport).repository(Repository(registry=pusher.address, name=repository), None)
    listed = client.tags()
    assert (sorted(listed.tags), listed.complete) == (wanted, True)


@pytest.mark.needs("registry")
def test_repository_that_is_not_there_is_not_found(pusher: Pusher, transport: Transport) -> None:
    client = Registries(transport).repository(Repository(registry=pusher.address, name="t/nothing"), None)
    with pytest.raises(ArtifactNotFoundError):
        client.tags()


@pytest.mark.parametrize("nothing", [None, []])
def test_repository_without_a_tag_lists_none(fake: FakeRegistry, connect: Connect, nothing: object) -> None:
    fake.bend(PATH, always(page(nothing)))
    assert connect().tags().tags == ()


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_links_are_followed(fake: FakeRegistry, connect: Connect, *, absolute: bool) -> None:
    def answer(request: Request, _answer: Answer) -> Answer:
        number = int(request.query.get("page", 0))
        link = f"{fake.url(PATH) if absolute else PATH}?page={number + 1}"
        return page([f"v{number}"], **({"Link": f'<{link}>; rel="next"'} if number < 3 else {}))

    fake.bend(PATH, answer)
    listed = connect().tags()
    assert (listed.tags, listed.complete) == (("v0", "v1", "v2", "v3"), True)
    assert fake.seen(PATH)[0].query == {"n": "1000"}


def test_full_page_without_a_link_is_followed_by_its_last_tag(fake: FakeRegistry, connect: Connect) -> None:
    every = [f"v{number:05}" for number in range(2500)]

    def answer(request: Request, _answer: Answer) -> Answer:
        rest = [tag for tag in every if tag > request.query.get("last", "")]
        return page(rest[: int(request.query["n"])])

    fake.bend(PATH, answer)
    listed = connect().tags()
    assert (list(listed.tags), listed.complete) == (every, True)


@pytest.mark.parametrize("count", [1000, 1500])
def test_registry_that_knows_no_pages_is_believed(fake: FakeRegistry, connect: Connect, count: int) -> None:
    every = [f"v{number}" for number in range(count)]
    fake.bend(PATH, always(page(every)))
    listed = connect().tags()
    assert (list(listed.tags), listed.complete) == (every, True)


@pytest.mark.row("D5")
def test_pages_that_bring_nothing_new_end(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(page(["v1"], Link=f'<{PATH}?again=1>; rel="next"')))
    listed = connect().tags()
    assert (listed.tags, listed.complete) == (("v1",), True)
    assert fake.count(PATH) == 2


@pytest.mark.row("D5")
def test_pages_without_end_are_cut_off_and_said_to_be(fake: FakeRegistry, connect: Connect) -> None:
    def answer(request: Request, _answer: Answer) -> Answer:
        number = int(request.query.get("page", 0))
        return page([f"v{number}"], Link=f'<{PATH}?page={number + 1}>; rel="next"')

    fake.bend(PATH, answer)
    listed = connect().tags()
    assert (len(listed.tags), listed.complete) == (50, False)
    assert fake.count(PATH) == 50


@pytest.mark.row("D5")
def test_more_tags_than_anybody_lists_are_cut_off_and_said_to_be(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, always(page([f"v{number}" for number in range(50_001)])))
    listed = connect().tags()
    assert (len(listed.tags), listed.complete) == (50_000, False)


@pytest.mark.parametrize("link", ["http://169.254.169.254/latest", "//evil.example/x", "file:///x", "http://[::1/x"])
@pytest.mark.row("D5")
def test_page_elsewhere_is_refused(fake: FakeRegistry, connect: Connect, link: str) -> None:
    fake.bend(PATH, always(page(["v1"], Link=f'<{link}>; rel="next"')))
    with pytest.raises(BadResponseError):
        connect().tags()


@pytest.mark.row("D5")
def test_page_of_another_host_is_never_asked_for(fake: FakeRegistry, evil: FakeServer, connect: Connect) -> None:
    fake.require_basic("me", "right")
    fake.bend(PATH, always(page(["v1"], Link=f'<{evil.url(PATH)}>; rel="next"')))
    with pytest.raises(BadResponseError, match="another host"):
        connect("t/x", user("me", "right")).tags()
    assert evil.count() == 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(page(["v1", "../../etc"]), HostileContentError, id="path"),
        pytest.param(page(["v1\n"]), HostileContentError, id="line break"),
        pytest.param(page(["v" * 129]), HostileContentError, id="129 characters"),
        pytest.param(page([""]), HostileContentError, id="empty"),
        pytest.param(page([5]), HostileContentError, id="number"),
        pytest.param(page({"v1": 1}), HostileContentError, id="no list"),
        pytest.param(page("v1"), HostileContentError, id="text"),
        pytest.param(Answer(body=b"[" * 100_000), HostileContentError, id="deep"),
        pytest.param(Answer(body=b'["v1"]'), HostileContentError, id="no object"),
        pytest.param(Answer(body=b"<html>"), BadResponseError, id="no JSON"),
        pytest.param(Answer(body=b" " * (5 << 20)), BadResponseError, id="5 MiB"),
        pytest.param(page(["v1"], Content_Encoding="gzip"), BadResponseError, id="encoded"),
    ],
)
def test_list_that_is_none_is_refused(
    fake: FakeRegistry, connect: Connect, answer: Answer, error: type[Exception]
) -> None:
    fake.bend(PATH, always(answer))
    with pytest.raises(error):
        connect().tags()


def test_list_that_cannot_be_had_is_no_empty_one(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, status(503))
    with pytest.raises(RegistryUnavailableError):
        connect().tags()


def test_list_is_asked_for_again_after_a_failure(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend(PATH, status(503), times=2)
    fake.bend(PATH, always(page(["v1"])))
    assert connect().tags().tags == ("v1",)
