"""API keys: made once, shown once, kept as a hash. A key has 256 random bits, so plain SHA-256 is enough."""

import hashlib
import secrets

from django.contrib.auth.models import AbstractBaseUser
from django.utils import timezone

from searchapp.exceptions import InvalidInput
from searchapp.models import ApiKey


def key_create(*, user: AbstractBaseUser, name: str) -> tuple[ApiKey, str]:
    """Make a key with the rights of `user`. The returned text is the only copy there will ever be."""
    if not 1 <= len(name) <= 100:
        raise InvalidInput(
            f"name has {len(name)} characters, allowed: 1 to 100", fields={"name": "1 to 100 characters"}
        )
    if not user.is_active:
        raise InvalidInput(f"user {user.get_username()!r} is not active and cannot have a key")
    prefix = secrets.token_hex(4)
    key = f"per_{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey.objects.create(user_id=user.pk, name=name, prefix=prefix, key_sha256=_digest(key))
    return row, key


def key_find(*, key: str) -> ApiKey | None:
    """The valid key with this text: not revoked, of a user who is still active."""
    found = ApiKey.objects.select_related("user").filter(key_sha256=_digest(key), user__is_active=True)
    return found.filter(revoked_at__isnull=True).first()


def key_revoke(*, api_key: ApiKey) -> None:
    """Refuse the key from the next request on. Revoking twice keeps the first date."""
    ApiKey.objects.filter(pk=api_key.pk, revoked_at__isnull=True).update(revoked_at=timezone.now())


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
