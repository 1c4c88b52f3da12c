"""Where a request comes from, as far as the proxies in front of us can be believed; and who asks, if that matters.

Visitors are told apart only while a canary answers some of them: by a random cookie that says nothing else.
"""

import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from searchapp.services import serving

COOKIE = "visitor"
COOKIE_SECONDS = 30 * 24 * 3600
_MADE, _USELESS = "perennial.visitor.made", "perennial.visitor.useless"
_ID = re.compile(r"[0-9a-f]{32}")


def visitor_of(request: HttpRequest) -> str:
    """Who asks on a page: the cookie's id while a canary answers some visitors, else the client's address."""
    sent = request.COOKIES.get(COOKIE, "")
    if not serving.divides_visitors():
        request.META[_USELESS] = bool(sent)
        return client_address(request.META)
    if _ID.fullmatch(sent):
        return sent
    made: str = request.META.setdefault(_MADE, secrets.token_hex(16))
    return made


class VisitorMiddleware:
    """Sends the cookie that `visitor_of` made, and takes back one that serves no purpose any more."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if made := request.META.get(_MADE):
            response.set_cookie(
                COOKIE,
                made,
                max_age=COOKIE_SECONDS,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        elif request.META.get(_USELESS):
            response.delete_cookie(COOKIE, samesite="Lax")
        return response


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
