"""Which addresses of the internet a server may fetch from on behalf of strangers."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = tuple(ipaddress.IPv6Network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # IPv4 written as IPv6, an old form


def public(text: str) -> bool:
    """Whether an address lies in the open internet, whatever it is written as.

    Private, loopback, link-local (cloud metadata too), shared, reserved, documentation, multicast and unspecified
    addresses do not, nor do forms of IPv6 that carry such an IPv4 address inside.
    """
    try:
        address: Address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    return all(_open(a) for a in (address, *_inside(address)))


def _open(address: Address) -> bool:
    closed = address.is_private or address.is_loopback or address.is_link_local or address.is_reserved
    return address.is_global and not (closed or address.is_multicast or address.is_unspecified)


def _inside(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 address stands for."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found: list[Address] = [a for a in (address.ipv4_mapped, address.sixtofour) if a is not None]
    if address.teredo is not None:
        found += address.teredo
    if address in _COMPATIBLE or any(address in n for n in _NAT64):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, in the order of the system's resolver. Raises OSError when there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(f[4][0]) for f in found))


def allowed(addresses: Sequence[str]) -> bool:
    """Whether all of a host's addresses are public; one that is not makes the whole name suspect."""
    return bool(addresses) and all(map(public, addresses))
