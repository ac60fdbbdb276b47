"""Dialling: a connection to the first address of a host that answers, within one deadline for all of them.

The standard library gives each address the whole time, and who names a host may give it four thousand addresses.
"""

import socket
import time
from typing import Any

_LEAST_SECONDS = 2.0
"""What an address has at least while there is time: many others are no reason to give up on it at once."""


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """Connect within `seconds`, dealt between the addresses that are left; looking up the name does not count.

    Raises:
        OSError: no address answers; what the last one said.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    deadline = time.monotonic() + seconds
    failure: OSError = TimeoutError("timed out")
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            return _connected(socket.socket(family, kind, protocol), address, _part(left, len(addresses) - number))
        except OSError as error:
            failure = error
    raise failure


def _part(left: float, addresses: int) -> float:
    return max(left / addresses, min(_LEAST_SECONDS, left))


def _connected(sock: socket.socket, address: Any, seconds: float) -> socket.socket:
    try:
        sock.settimeout(seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
