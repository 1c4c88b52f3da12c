"""The callers of the API in tests, one of each role, and what an error looks like."""

from typing import Any

from django.contrib.auth.models import Group, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from searchapp.access import OPERATOR_GROUP, Role
from searchapp.services import api_keys

PASSWORD = "correct horse battery"


def user_make(
    name: str, *, is_staff: bool = False, is_superuser: bool = False, is_active: bool = True
) -> User:
    flags = {"is_staff": is_staff, "is_superuser": is_superuser, "is_active": is_active}
    return User.objects.create_user(name, None, PASSWORD, **flags)


def operator_make(name: str = "olga") -> User:
    user = user_make(name, is_staff=True)
    user.groups.add(Group.objects.get_or_create(name=OPERATOR_GROUP)[0])
    return user


def key_client(user: User, **extra: Any) -> Client:
    _, key = api_keys.key_create(user=user, name="test")
    return Client(headers={"Authorization": f"Key {key}"}, **extra)


def session_client(user: User, **extra: Any) -> Client:
    client = Client(**extra)
    client.force_login(user)
    return client


def clients_by_role() -> dict[Role, Client]:
    """Anonymous without anything, a plain user with a key, and staff, operator and superuser signed in."""
    return {
        Role.ANONYMOUS: Client(),
        Role.API_KEY: key_client(user_make("kim")),
        Role.STAFF: session_client(user_make("sam", is_staff=True)),
        Role.OPERATOR: session_client(operator_make()),
        Role.SUPERUSER: session_client(user_make("sue", is_staff=True, is_superuser=True)),
    }


def photo_file(data: bytes, name: str = "photo.jpg") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, data, content_type="image/jpeg")


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error of an answer that has the one shape, and nothing beside it."""
    assert response.status_code == status, response.content[:500]
    assert response["Content-Type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "fields", "request_id"}
    assert error["request_id"] == response["X-Request-Id"]
    assert error["message"]
    return error
