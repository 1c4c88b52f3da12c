"""Who is calling: an `Authorization: Key …` header, or the session of somebody signed in."""

from typing import Any

from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from searchapp.models import ApiKey
from searchapp.services.api_keys import key_find

SCHEME = "Key"


class ApiKeyAuthentication(BaseAuthentication):
    """Looked up by its hash, never compared in the clear. Any other scheme is refused, not ignored."""

    def authenticate(self, request: Request) -> tuple[Any, ApiKey] | None:
        header = request.headers.get("Authorization", "")
        if not header:
            return None
        scheme, _, key = header.partition(" ")
        if scheme.lower() != SCHEME.lower():
            raise AuthenticationFailed(f"The Authorization header must read '{SCHEME} <your key>'.")
        found = key_find(key=key.strip())
        if found is None:
            raise AuthenticationFailed("This API key is unknown or revoked.")
        return found.user, found

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return SCHEME


class CsrfFailed(PermissionDenied):
    default_code = "csrf_failed"


class CsrfSessionAuthentication(SessionAuthentication):
    """Django's session, with a CSRF check on unsafe methods whose refusal has a code of its own."""

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as refusal:
            raise CsrfFailed(f"{refusal.detail} Send the csrftoken cookie's value as X-CSRFToken.") from None
