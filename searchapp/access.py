"""Who may do what: one table from which the permission check, and the access test, are made.

Roles nest: an operator is staff, staff is signed in, and a superuser is everything. A route that is missing here is
denied to everybody, and fails the access test. Admin pages are guarded by Django's own model permissions.
"""

from enum import IntEnum
from typing import Any

from searchapp.models import ApiKey


class Role(IntEnum):
    ANONYMOUS = 0
    API_KEY = 1
    STAFF = 2
    OPERATOR = 3
    SUPERUSER = 4


OPERATOR_GROUP = "operators"
EVERYONE = Role.ANONYMOUS

# route name -> method -> the lowest role that may call it
ACCESS: dict[str, dict[str, Role]] = {}


def role_of(user: Any, auth: Any) -> Role:
    """The highest role of a Django user (or AnonymousUser) and what it signed in with."""
    if not getattr(user, "is_authenticated", False) or not user.is_active:
        return Role.ANONYMOUS
    if user.is_superuser:
        return Role.SUPERUSER
    if user.is_staff and user.groups.filter(name=OPERATOR_GROUP).exists():
        return Role.OPERATOR
    if user.is_staff:
        return Role.STAFF
    return Role.API_KEY if isinstance(auth, ApiKey) else Role.ANONYMOUS


def is_allowed(route_name: str, method: str, role: Role) -> bool:
    """Default deny. HEAD counts as GET; OPTIONS tells nothing and is open wherever the route is listed."""
    methods = ACCESS.get(route_name)
    if methods is None:
        return False
    if method == "OPTIONS":
        return True
    needed = methods.get("GET" if method == "HEAD" else method)
    return needed is not None and role >= needed
