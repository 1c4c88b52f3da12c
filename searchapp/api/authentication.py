"""`Authorization: Key <key>`: the key is looked up by its hash, never compared in the clear."""

import hashlib

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from searchapp.models import ApiKey

SCHEME = "Key"


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[object, ApiKey] | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme != SCHEME:
            return None
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        found = (
            ApiKey.objects.select_related("user")
            .filter(key_sha256=digest, user__is_active=True)
            .exclude(revoked_at__lte=timezone.now())
            .first()
        )
        if found is None:
            raise AuthenticationFailed("This API key is unknown or revoked.")
        return found.user, found

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002
        return SCHEME
