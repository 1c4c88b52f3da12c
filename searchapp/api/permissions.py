"""Default deny: a call passes only if the access table lists its route and method for the caller's role."""

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from searchapp.access import is_allowed, role_of


class DenyUnlessListed(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        match = request.resolver_match
        route = match.view_name if match else ""
        return is_allowed(route, request.method or "", role_of(request.user, request.auth))
