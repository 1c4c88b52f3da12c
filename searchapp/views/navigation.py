"""What every page's header asks of the visitor beyond being staff; looked up only when a template asks."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from searchapp.access import Role, role_of


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `is_operator`, true for operators and superusers."""
    return {"is_operator": SimpleLazyObject(lambda: role_of(request.user, None) >= Role.OPERATOR)}
