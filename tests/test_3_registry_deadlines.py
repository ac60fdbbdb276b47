"""Deadlines: whatever a server does or leaves undone, and in whichever phase, a request ends."""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from csi_oras.errors import AccessDeniedError, RegistryUnavailableError
from csi_oras.oci.descriptor import Descriptor
from csi_oras.registry.transport import Transport
from tests.support.certificates import Authority, server_context
from tests.support.fake_registry import FakeRegistry, TLSRegistry
from tests.support.fake_server import FakeServer, dripping, raw
from tests.support.fakes import Connect
from tests.support.pods import wait_for

pytest_plugins = ["tests.support.fake_fixtures"]

_OK = b"HTTP/1.1 200 OK\r\n"
_LONG = b"Content-Length: 1000000\r\n\r\n"
_SLOWLY, _FASTER_THAN_THE_SLOWEST = 0.1, 0.0001
"""Seconds between bytes: below the pace at which a peer is given up, and above it."""


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address that answers no more connections, as one behind a firewall that drops what it gets."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # what is waiting to be accepted; the third gets no answer
            waiting = closing.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


@pytest.fixture
def mute() -> Iterator[str]:
    """A server that takes connections and begins a TLS record that never ends, a byte now and then."""
    stopped = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")
                while not stopped.wait(_SLOWLY):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        stopped.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def refused(transport: Transport, url: str) -> None:
    with (
        pytest.raises(RegistryUnavailableError, match="did not answer in time"),
        transport.request("GET", url, {}) as response,
    ):
        response.read(1 << 20)


def test_host_that_takes_no_connection_is_given_up(transport: Transport, deaf: tuple[str, int]) -> None:
    refused(transport, f"http://127.0.0.1:{deaf[1]}/")


def test_host_of_many_addresses_has_one_deadline_for_all(
    transport: Transport, deaf: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", deaf)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: [address] * 1000)
    began = time.monotonic()
    refused(transport, f"http://registry.example:{deaf[1]}/")
    assert time.monotonic() - began < 60  # and not 1,000 times half a second


def test_address_after_one_that_is_deaf_is_tried(
    deaf: tuple[str, int], evil: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = evil.address.partition(":")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (deaf, (host, int(port)))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: found)
    patient = Transport(stall_seconds=4)
    with patient.request("GET", f"http://registry.example:{port}/x", {}) as response:
        assert response.status == 200
    patient.close()


def test_tls_handshake_that_never_ends_is_given_up(transport: Transport, mute: str) -> None:
    refused(transport, mute)


@pytest.mark.parametrize("every", [_SLOWLY, _FASTER_THAN_THE_SLOWEST], ids=["slowly", "faster"])
@pytest.mark.parametrize("start", [_OK + b"X: ", _OK + _LONG], ids=["headers", "document"])
def test_answer_that_drips_is_given_up(evil: FakeServer, transport: Transport, start: bytes, every: float) -> None:
    evil.bend("/x", dripping(start, every))
    refused(transport, evil.url("/x"))


def test_token_answer_that_drips_is_given_up(fake: FakeRegistry, connect: Connect) -> None:
    fake.require_tokens(anonymous=True)
    fake.artifact("t/x", [])
    fake.bend("/token", dripping(_OK + _LONG, _SLOWLY))
    with pytest.raises(RegistryUnavailableError, match="did not answer in time"):
        connect().manifest("v1", limit=1 << 20)


def test_refusal_whose_words_drip_is_a_refusal(fake: FakeRegistry, connect: Connect) -> None:
    fake.bend("/manifests/", dripping(b"HTTP/1.1 403 Forbidden\r\n" + _LONG, _SLOWLY))
    with pytest.raises(AccessDeniedError):
        connect().manifest("v1", limit=1 << 20)


def test_blob_that_drips_is_given_up(fake: FakeRegistry, connect: Connect) -> None:
    content = bytes(1_000_000)
    fake.blob("t/x", content)
    fake.bend("/blobs/", dripping(_OK + _LONG, _SLOWLY))
    with (
        pytest.raises(RegistryUnavailableError, match="did not answer in time"),
        connect().blob(Descriptor.of(content, "x")) as stream,
    ):
        stream.readinto(memoryview(bytearray(len(content))))


ENDLESS = {
    "trailers": b"1\r\nx\r\n0\r\n" + b"A: b\r\n" * 1_000_000,
    "chunks": b"1;" + b"x" * 60_000 + b"\r\nx\r\n" + (b"1;" + b"x" * 60_000 + b"\r\nx\r\n") * 80,
}


@pytest.mark.parametrize("chunked", ENDLESS.values(), ids=ENDLESS.keys())
def test_frames_of_a_body_without_end_are_given_up(evil: FakeServer, transport: Transport, chunked: bytes) -> None:
    evil.bend("/x", raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked))
    with (
        pytest.raises(RegistryUnavailableError, match="a body without end"),
        transport.request("GET", evil.url("/x"), {}) as response,
    ):
        response.read(1000)


# -- what is cut off from this side


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_peer_that_is_cut_off_has_given_what_had_arrived_and_nothing_else(tmp_path: Path, scheme: str) -> None:
    authority = Authority(tmp_path)
    content, given = os.urandom(200_000), 100_000
    server = TLSRegistry(server_context(authority.pair("server"))) if scheme == "https" else FakeRegistry()
    transport = Transport(ssl.create_default_context(cafile=authority.ca), stall_seconds=30)
    with server as fake, ThreadPoolExecutor(1) as pool:
        fake.bend("/x", lambda _request, answer: replace(answer, body=content, sent=given, stalls=True))
        with transport.request("GET", fake.url("/x"), {}) as response:
            buffer = memoryview(bytearray(len(content)))
            reading = pool.submit(response.readinto, buffer)
            wait_for(lambda: response.peer.received > given)  # with the headers, all that comes
            response.peer.cut_off()
            assert reading.result(20) == given
            assert buffer[:given] == content[:given]
            with contextlib.suppress(RegistryUnavailableError):
                assert response.readinto(buffer) == 0
    transport.close()
