"""Hosts: where a registry is reached, and which other hosts it may send us to."""

import ipaddress
import re

from csi_oras.errors import BadResponseError
from csi_oras.oci.reference import DOCKER_HUB
from csi_oras.registry.origin import Origin

_HUB_HOST = "registry-1.docker.io"
_HTTPS_PORT = 443
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""How the last label of another spelling of an address looks (127.1, 0x7f000001, 1.2.3.4.): no honest name's does."""


def base_url(registry: str) -> str:
    """Return the URL before `/v2/`: HTTPS, but plain HTTP for a loopback address with another port (as containerd)."""
    host = _HUB_HOST if registry == DOCKER_HUB else registry
    origin = Origin.of(f"https://{host}")
    plain = is_loopback(origin.host) and origin.port != _HTTPS_PORT
    return f"{'http' if plain else 'https'}://{host}"


def is_loopback(host: str) -> bool:
    """Say whether `host` is this machine by its very name."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def check_destination(origin: Origin, asked: Origin, what: str) -> None:
    """Refuse a redirect or realm that leads to a weaker or an inner place than the registry `asked` itself.

    Raises:
        BadResponseError: https would become http, or the host is a private, loopback or link-local address.
    """
    subject = f"registry {asked}"
    if asked.scheme == "https" and origin.scheme != "https":
        raise BadResponseError(subject, f"sends us on to a {what} without TLS ({origin})")
    network = _inner_network(origin.host)
    if network and origin.host != asked.host and (network == "link-local" or network != _inner_network(asked.host)):
        raise BadResponseError(subject, f"sends us on to a {what} at a {network} address ({origin})")


def check_realm(realm: Origin, asked: Origin) -> None:
    """Refuse a token endpoint that does not belong to the registry: it would be handed the credential.

    The registry's own host, a host of the domain that the registry's host is in, and `auth.docker.io` belong.

    Raises:
        BadResponseError: any other host (CVE-2026-48978).
    """
    check_destination(realm, asked, "token endpoint")
    domain = "" if _inner_network(asked.host) or _address(asked.host) else asked.host.partition(".")[2]
    related = "." in domain and (realm.host == domain or realm.host.endswith(f".{domain}"))
    both_here = is_loopback(asked.host) and is_loopback(realm.host)
    if not (realm.host == asked.host or related or both_here):
        raise BadResponseError(
            f"registry {asked}",
            f"names a token endpoint at another domain ({realm})",
            "ask its administrator",
        )


def _inner_network(host: str) -> str:
    """Name the kind of network that an address literal is in, or nothing for names and public addresses."""
    address = _address(host)
    if address is None:
        labels = host.rstrip(".").split(".")
        if labels[-1] == "localhost":
            return "loopback"
        return "link-local" if _NUMBER.fullmatch(labels[-1]) else ""
    if address.is_loopback:
        return "loopback"
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "link-local"
    return "" if address.is_global else "private"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
