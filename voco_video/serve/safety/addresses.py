"""Which machines a server may be sent to: public addresses alone, checked on the address that is then connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from voco_video.errors import VideoError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsAllowed = Callable[[str], bool]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER = (
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("::/96"),
)


def is_public(address: str) -> bool:
    """Tell whether an IP address is of the public internet, and none that stands for an address that is not.

    >>> [is_public(a) for a in ("93.184.216.34", "127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(
        one.is_global
        and not (one.is_multicast or one.is_reserved or one.is_unspecified or one.is_private or one.is_link_local)
        and not any(one in network for network in _NEVER if network.version == one.version)
        for one in (ip, *_embedded(ip))
        if one is not ip or not isinstance(ip, ipaddress.IPv6Address) or ip not in _NAT64
    )


def _embedded(ip: Address) -> list[Address]:
    """List the IPv4 addresses that an IPv6 address carries: mapped, 6to4, Teredo, NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found: list[Address] = [one for one in (ip.ipv4_mapped, ip.sixtofour) if one is not None]
    if ip.teredo is not None:
        found += list(ip.teredo)
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def allowed_addresses(host: str, port: int, is_allowed: IsAllowed) -> list[str]:
    """Resolve a host once, and return its addresses to connect to.

    All of them have to be allowed: a name that stands for a public and a private address is a trick.

    Raises:
        VideoError: the name is unknown, or an address of it is not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise VideoError(f"{host}: no such host") from error
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not addresses or not all(map(is_allowed, addresses)):
        raise VideoError(f"{host}: stands for an address inside a private network, which this server does not ask")
    return addresses
