"""Default deny: a call passes only if the access table lists its route and method for the caller's role."""

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from searchapp.access import is_allowed, lowest_role, role_of

if TYPE_CHECKING:  # rest_framework.views imports this module while it is being loaded
    from rest_framework.views import APIView


class DenyUnlessListed(BasePermission):
    """Also leaves the caller's role on the view, so that nothing asks for it twice."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        match = request.resolver_match
        route, method = match.view_name if match else "", request.method or ""
        role = role_of(request.user, request.auth)
        view.role = role  # type: ignore[attr-defined]
        if lowest_role(route, method) is None and method not in view.allowed_methods:
            return True  # no such method here for anybody: the view answers 405
        return is_allowed(route, method, role)
