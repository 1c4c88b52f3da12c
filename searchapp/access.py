"""Who may do what: one table from which the permission check, and the access test, are made.

Roles nest: an operator is staff, staff is signed in, and a superuser is everything. A route that is missing
here is denied to everybody, and fails the access test. Admin pages are guarded by Django's own permissions.
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

Table = dict[str, dict[str, Role]]

# Each section: route name -> method -> the lowest role that may call it.

# --- API: /api/v1 and its description (api/urls.py)
API: Table = {
    "api:search": {"POST": EVERYONE},
    "api:encode": {"POST": Role.API_KEY},
    "api:items": {"GET": EVERYONE, "POST": Role.STAFF},
    "api:item": {"GET": EVERYONE, "PATCH": Role.STAFF, "DELETE": Role.STAFF},
    # Also answers for an item whose SKU itself ends in "/images", hence the methods of "api:item".
    "api:item-images": {"GET": EVERYONE, "POST": Role.STAFF, "PATCH": Role.STAFF, "DELETE": Role.STAFF},
    "api:categories": {"GET": EVERYONE, "POST": Role.STAFF},
    "api:categories-learn": {"POST": Role.STAFF},
    "api:imports": {"POST": Role.STAFF},
    # Staff see every job, others the jobs they started; the rest is 404. Kinds of jobs that concern model versions
    # are cancelled and retried by operators alone (searchapp.job_kinds).
    "api:job": {"GET": Role.API_KEY},
    "api:job-cancel": {"POST": Role.API_KEY},
    "api:job-retry": {"POST": Role.API_KEY},
    "api:feedback": {"POST": EVERYONE},
    "api:model-versions": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "api:model-version-import": {"POST": Role.OPERATOR},
    "api:model-version-evaluate": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "api:model-version-promote": {"POST": Role.OPERATOR},
    "api:rollback": {"POST": Role.OPERATOR},
    "api:gallery-correct": {"POST": Role.OPERATOR},
    "api:gallery-backfill": {"POST": Role.OPERATOR},
    "api:schema": {"GET": EVERYONE},
    "api:docs": {"GET": EVERYONE},
    # Answers 404 in the error shape to whatever no other route knows.
    "api:unknown": dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), EVERYONE),
}

# --- PAGES: views/urls.py
PAGES: Table = {
    "start": {"GET": EVERYONE},
    "search": {"GET": EVERYONE, "POST": EVERYONE},
    "explain": {"GET": EVERYONE, "POST": EVERYONE},
    "feedback": {"POST": EVERYONE},
    "browse": {"GET": EVERYONE},
    "item": {"GET": EVERYONE},
    "item-by-sku": {"GET": EVERYONE},
    "media": {"GET": EVERYONE},
    "jobs": {"GET": Role.STAFF},
    "job": {"GET": Role.STAFF},
    "job-errors": {"GET": Role.STAFF},
    "job-cancel": {"POST": Role.STAFF},
    "job-retry": {"POST": Role.STAFF},
    # The buttons ask for Django's permissions on top: to change and to delete items and their photos.
    "duplicates": {"GET": Role.STAFF},
    "duplicate-keep": {"POST": Role.STAFF},
    "duplicate-remove": {"GET": Role.STAFF, "POST": Role.STAFF},
    "models": {"GET": Role.OPERATOR},
    "drift-look": {"POST": Role.OPERATOR},
    "quality-look": {"POST": Role.OPERATOR},
    "model-version": {"GET": Role.OPERATOR},
    "model-verdict": {"GET": Role.OPERATOR},
    "model-measure": {"POST": Role.OPERATOR},
    "model-correct": {"POST": Role.OPERATOR},
    "flip-decide": {"POST": Role.OPERATOR},
    "model-promote": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "gallery": {"GET": Role.OPERATOR},
    "gallery-correct": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "gallery-backfill": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "gallery-pause": {"POST": Role.OPERATOR},
    "gallery-resume": {"POST": Role.OPERATOR},
    "model-rollback": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "evaluation-sets": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "evaluation-feedback": {"POST": Role.OPERATOR},
    "evaluation-set": {"GET": Role.OPERATOR},
    "evaluation-set-use": {"POST": Role.OPERATOR},
    "evaluation-set-remove": {"POST": Role.OPERATOR},
    "evaluation-set-delete": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "audit-log": {"GET": Role.OPERATOR},
    "audit-log-csv": {"GET": Role.OPERATOR},
    "settings": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "version-import": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "train": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "train-candidate": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "training": {"GET": Role.OPERATOR},
    "training-cancel": {"GET": Role.OPERATOR, "POST": Role.OPERATOR},
    "training-retry": {"POST": Role.OPERATOR},
    "login": {"GET": EVERYONE, "POST": EVERYONE},
    "logout": {"POST": EVERYONE},
}

# --- HEALTH: probes and figures (api/health.py)
HEALTH: Table = {
    "health-live": {"GET": EVERYONE},
    "health-ready": {"GET": EVERYONE},
    # The scraper carries a key of an ordinary user: it reads figures and can write nothing.
    "metrics": {"GET": Role.API_KEY},
}

# --- ADMIN: one family, guarded by django.contrib.admin; others are sent to the login page
ADMIN_NAMESPACE = "admin"

ACCESS: Table = {**API, **PAGES, **HEALTH}


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


def lowest_role(route_name: str, method: str) -> Role | None:
    """The lowest role that may make this call, or None when nobody may. HEAD counts as GET."""
    return ACCESS.get(route_name, {}).get("GET" if method == "HEAD" else method)


def is_allowed(route_name: str, method: str, role: Role) -> bool:
    """Default deny. OPTIONS tells nothing and is open wherever the route is listed."""
    if method == "OPTIONS":
        return route_name in ACCESS
    needed = lowest_role(route_name, method)
    return needed is not None and role >= needed
