"""Connections: used again, replaced when they went stale, bounded in what they may send as headers."""

import io
import threading
import time
from dataclasses import replace

import pytest

from csi_oras.errors import BadResponseError, RegistryUnavailableError
from csi_oras.registry.origin import Origin
from csi_oras.registry.transport import IDLE_PER_ORIGIN, Transport
from tests.support.fake_server import FakeServer, body, broken_off, dripping, header, raw, stalled, status

pytest_plugins = ["tests.support.fake_fixtures"]


def get(transport: Transport, url: str) -> bytes:
    with transport.request("GET", url, {}) as response:
        return response.read(1 << 20)


def test_requests_in_turn_share_one_connection(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", body(b"content"))
    for _ in range(10):
        assert get(transport, evil.url("/x")) == b"content"
    assert evil.connections == 1


def test_head_and_empty_answers_leave_the_connection_usable(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/empty", status(204), times=1)
    with transport.request("HEAD", evil.url("/x"), {}) as response:
        response.read(0)
    get(transport, evil.url("/empty"))
    get(transport, evil.url("/x"))
    assert evil.connections == 1


def test_requests_at_once_have_a_connection_each_and_all_are_kept(evil: FakeServer, transport: Transport) -> None:
    together = threading.Barrier(5)

    def wait(_request: object, answer: object) -> object:
        together.wait(10)
        return answer

    evil.bend("/together", wait)  # type: ignore[arg-type]
    for _ in range(2):
        threads = [threading.Thread(target=get, args=(transport, evil.url("/together"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert evil.connections == 5
    assert IDLE_PER_ORIGIN >= 5


@pytest.mark.parametrize("read", [0, 3])
def test_connection_with_an_unread_body_is_never_used_again(evil: FakeServer, transport: Transport, read: int) -> None:
    evil.bend("/x", body(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), times=1)
    evil.bend("/x", body(b"honest"))
    with transport.request("GET", evil.url("/x"), {}) as response:
        assert response.readinto(memoryview(bytearray(read))) == read
    assert get(transport, evil.url("/x")) == b"honest"
    assert evil.connections == 2


def test_connection_that_the_server_closes_after_an_answer_is_not_kept(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", header(Connection="close"))
    get(transport, evil.url("/x"))
    get(transport, evil.url("/x"))
    assert evil.connections == 2


def test_idle_connection_that_went_stale_is_replaced_unseen(evil: FakeServer, transport: Transport) -> None:
    get(transport, evil.url("/x"))
    evil.drop_connections()
    get(transport, evil.url("/x"))
    assert (evil.connections, evil.count()) == (2, 2)


def test_idle_connection_that_breaks_under_the_request_is_replaced_unseen(
    evil: FakeServer, transport: Transport
) -> None:
    get(transport, evil.url("/x"))
    evil.bend("/x", raw(b""), times=1)  # the peer closes while the request is on its way
    get(transport, evil.url("/x"))
    assert (evil.connections, evil.count()) == (2, 3)


def test_new_connection_that_breaks_is_unavailable(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", raw(b""))
    with pytest.raises(RegistryUnavailableError):
        get(transport, evil.url("/x"))
    assert evil.count() == 1


def test_body_is_not_sent_a_second_time_on_a_broken_connection(evil: FakeServer, transport: Transport) -> None:
    get(transport, evil.url("/x"))
    evil.bend("/up", raw(b""))
    with pytest.raises(RegistryUnavailableError):
        transport.request("PUT", evil.url("/up"), {"Content-Length": "4"}, io.BytesIO(b"body"))
    assert evil.count("/up") == 1


def test_idle_connection_that_went_stale_is_not_given_a_body(evil: FakeServer, transport: Transport) -> None:
    get(transport, evil.url("/x"))
    evil.drop_connections()
    with transport.request("PUT", evil.url("/up"), {"Content-Length": "4"}, io.BytesIO(b"body")) as response:
        assert response.status == 200
    assert evil.seen("/up")[0].body == b"body"


NO_ANSWERS = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status out of range": b"HTTP/1.1 99999 OK\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a long status line": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b\r\n" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("content", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
@pytest.mark.row("D11")
def test_answer_that_is_none_is_unavailable_and_bounded(evil: FakeServer, transport: Transport, content: bytes) -> None:
    evil.bend("/x", raw(content))
    with pytest.raises(RegistryUnavailableError):
        get(transport, evil.url("/x"))


def test_answer_in_another_protocol_is_quoted_in_short(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", raw(bytes(range(128, 256)) * 20))
    with pytest.raises(RegistryUnavailableError, match=r"cannot be reached \(\\x80\\x81") as caught:
        get(transport, evil.url("/x"))
    assert len(caught.value.message) < 200


@pytest.mark.row("D10")
def test_interim_answers_without_end_are_unavailable(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(RegistryUnavailableError, match="headers without end"):
        get(transport, evil.url("/x"))


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
@pytest.mark.row("D10")
def test_server_that_sends_a_byte_now_and_then_is_unavailable_in_time(
    evil: FakeServer, transport: Transport, start: bytes
) -> None:
    evil.bend("/x", dripping(start, every=0.1))
    with pytest.raises(RegistryUnavailableError, match="did not answer in time"):
        get(transport, evil.url("/x"))


def test_time_that_the_reader_takes_is_no_stall_of_the_server(evil: FakeServer) -> None:
    window, gate = 0.2, threading.Event()
    transport = Transport(stall_seconds=window)  # and head and body are fewer bytes than a window of waiting needs
    evil.bend("/x", lambda _request, answer: replace(answer, body=b"alpha", gate=gate))
    with transport.request("GET", evil.url("/x"), {}) as response:
        time.sleep(1.5 * window)  # the disk is slow, not the registry
        gate.set()
        assert response.read(10) == b"alpha"
    transport.close()


def test_some_interim_answers_are_passed_over(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert get(transport, evil.url("/x")) == b"ok"


@pytest.mark.row("D11")
def test_cookie_is_never_sent_back(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", header(Set_Cookie="session=1"))
    get(transport, evil.url("/x"))
    get(transport, evil.url("/x"))
    assert [request.headers["Cookie"] for request in evil.seen()] == [None, None]


@pytest.mark.row("D10")
def test_server_that_never_answers_is_unavailable_in_time(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", lambda _request, answer: (evil.stopped.wait(5), answer)[1])
    with pytest.raises(RegistryUnavailableError, match="did not answer in time"):
        get(transport, evil.url("/x"))
    evil.stopped.set()


def test_port_where_nobody_listens_is_unavailable_with_the_reason(transport: Transport) -> None:
    with FakeServer() as gone:
        url = gone.url("/x")
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:\d+: cannot be reached \(Connection refused\)"):
        get(transport, url)


def test_plain_http_where_tls_is_expected_is_unavailable_and_never_plain(
    evil: FakeServer, transport: Transport
) -> None:
    with pytest.raises(RegistryUnavailableError, match="does not speak TLS"):
        get(transport, evil.url("/x").replace("http:", "https:"))
    assert evil.count() == 0


@pytest.mark.parametrize("bend", [broken_off(3), stalled(3)], ids=["broken off", "stalled"])
def test_read_of_a_body_that_does_not_come_whole_is_unavailable(
    evil: FakeServer, transport: Transport, bend: object
) -> None:
    evil.bend("/x", body(b"content"), times=0)
    evil.bend("/x", lambda request, answer: bend(request, body(b"content")(request, answer)))  # type: ignore[operator]
    with pytest.raises(RegistryUnavailableError):
        get(transport, evil.url("/x"))


def test_read_of_more_than_the_limit_is_refused(evil: FakeServer, transport: Transport) -> None:
    evil.bend("/x", body(b"12345"))
    with transport.request("GET", evil.url("/x"), {}) as response:
        assert response.read(5) == b"12345"
    with transport.request("GET", evil.url("/x"), {}) as response, pytest.raises(BadResponseError, match="the 4 bytes"):
        response.read(4)


def test_every_status_is_observed(evil: FakeServer) -> None:
    seen: list[int] = []
    transport = Transport(observe=seen.append)
    evil.bend("/missing", status(404))
    get(transport, evil.url("/x"))
    get(transport, evil.url("/missing"))
    transport.close()
    assert seen == [200, 404]


def test_close_closes_what_is_idle(evil: FakeServer) -> None:
    transport = Transport()
    get(transport, evil.url("/x"))
    transport.close()
    get(transport, evil.url("/x"))
    transport.close()
    assert evil.connections == 2


def test_origin_is_scheme_host_and_port_with_the_default_filled_in() -> None:
    assert Origin.of("HTTPS://Ghcr.IO/x?y") == Origin("https", "ghcr.io", 443)
    assert str(Origin.of("http://[::1]:5000/")) == "http://[::1]:5000"
    assert Origin.of("https://ghcr.io:443") == Origin.of("https://ghcr.io")
    assert Origin.of("http://ghcr.io") != Origin.of("https://ghcr.io")
