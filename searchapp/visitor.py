"""Where a request comes from, as far as the proxies in front of us can be believed."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from django.conf import settings


def client_address(meta: Mapping[str, Any]) -> str:
    """What throttles count by: an IPv4 address, or the /64 network that an IPv6 client owns as a whole.

    Each of the TRUSTED_PROXIES appends the peer it saw to X-Forwarded-For, so the client stands that many
    places from the right; whatever is further left was written by the client itself and is ignored.
    """
    hops = str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",") if settings.TRUSTED_PROXIES else []
    forwarded = hops[-settings.TRUSTED_PROXIES] if len(hops) >= settings.TRUSTED_PROXIES > 0 else ""
    return _network(forwarded) or _network(str(meta.get("REMOTE_ADDR", ""))) or "unknown"


def _network(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
