"""Default deny for all that is neither admin nor API: a page passes only if the access table lists it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from rest_framework.views import APIView

from searchapp.access import ACCESS, ADMIN_NAMESPACE, EVERYONE, is_allowed, lowest_role, role_of


class AccessMiddleware:
    """Asks the table before a page's view runs. Open pages cost no look at the session."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> HttpResponse | None:
        del args, kwargs
        match = request.resolver_match
        if match is None or ADMIN_NAMESPACE in match.namespaces or _asks_by_itself(view):
            return None
        route, method = match.view_name, request.method or ""
        if method == "OPTIONS" and route in ACCESS:  # answered here: no page has more to say to it
            return HttpResponse(status=204, headers={"Allow": ", ".join(sorted(ACCESS[route]))})
        if is_allowed(route, method, EVERYONE):
            return None
        if route in ACCESS and lowest_role(route, method) is None:
            return HttpResponseNotAllowed(sorted(ACCESS[route]))
        if is_allowed(route, method, role_of(request.user, None)):
            return None
        if request.user.is_authenticated:
            raise PermissionDenied("Your account may not do this.")
        return HttpResponseRedirect(f"{settings.LOGIN_URL}?{urlencode({'next': request.get_full_path()})}")


def _asks_by_itself(view: Callable[..., Any]) -> bool:
    """API views ask the same table in their permission check, after they have looked at the key."""
    return issubclass(getattr(view, "cls", object), APIView)
