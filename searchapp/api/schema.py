"""How the API describes itself: who may call comes from the access table, errors have one shape."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar

from django.urls import URLPattern, get_resolver
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request

from searchapp.access import EVERYONE, Role, lowest_role
from searchapp.api.authentication import ApiKeyAuthentication, CsrfSessionAuthentication

F = TypeVar("F", bound=Callable[..., Any])
ROLE_NAMES = {
    Role.ANONYMOUS: "Open to everybody.",
    Role.API_KEY: "Needs an API key, or somebody signed in as staff.",
    Role.STAFF: "Staff only.",
    Role.OPERATOR: "Operators only.",
    Role.SUPERUSER: "Superusers only.",
}
ERRORS = {
    400: "The request is not right; `fields` names what.",
    401: "No API key or session, or one that is unknown or revoked.",
    403: "This caller may not do this, or the CSRF token is missing.",
    404: "There is no such thing, or it is not yours.",
    409: "It contradicts what is there.",
    413: "Larger than allowed.",
    415: "Neither JSON nor multipart, or not a JPEG, PNG or WebP.",
    422: "The picture cannot be read.",
    429: "Too many requests from this address; `Retry-After` says when.",
    503: "Warming up or the database is away; `Retry-After` says when.",
    507: "The disk is full.",
}
# Whatever is called: text no database can hold, a bad key, a missing right, a database that is away.
ALWAYS = (400, 401, 403, 503)


class ErrorDetail(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="Stable; compare with this.")
    message = serializers.CharField(help_text="For people; may change.")
    fields = serializers.DictField(  # type: ignore[assignment]
        child=serializers.CharField(), help_text="What is wrong, by field."
    )
    request_id = serializers.CharField(help_text="Also in the log, and in the X-Request-Id header.")


class Error(serializers.Serializer[Any]):
    error = ErrorDetail()


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = ApiKeyAuthentication
    name = "key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:  # noqa: ARG002
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Key <your key>`; `manage.py create_api_key` makes one.",
        }


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = CsrfSessionAuthentication
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:  # noqa: ARG002
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "sessionid",
            "description": "Signed in to the admin; unsafe methods also need `X-CSRFToken`.",
        }


class DocumentedSchema(AutoSchema):
    """drf-spectacular's, with security read from the access table."""

    def get_auth(self) -> list[dict[str, list[str]]]:
        schemes: list[dict[str, list[str]]] = super().get_auth()
        return [*schemes, {}] if self._lowest_role() == EVERYONE else schemes

    def get_description(self) -> str:  # type: ignore[override]
        role = self._lowest_role()
        who = ROLE_NAMES[role] if role is not None else ""
        return f"{super().get_description()}\n\n{who}".strip()

    def _lowest_role(self) -> Role | None:
        return lowest_role(_route_names().get(type(self.view), ""), self.method)


def operation(
    operation_id: str,
    summary: str,
    *,
    answers: dict[Any, Any],
    errors: tuple[int, ...] = (),
    request: Any = None,
    parameters: list[OpenApiParameter] | None = None,
) -> Callable[[F], F]:
    """Describe one operation; every error it may answer with, beyond ALWAYS, is named in `errors`."""
    shapes: dict[Any, Any] = {
        status: OpenApiResponse(Error, description=ERRORS[status]) for status in sorted({*ALWAYS, *errors})
    }
    describe: Callable[[F], F] = extend_schema(
        operation_id=operation_id,
        summary=summary,
        request=request,
        parameters=parameters or [],
        responses=shapes | answers,
    )
    return describe


def parameter(
    name: str,
    type_: Any,
    text: str,
    *,
    many: bool = False,
    enum: list[str] | None = None,
    header: bool = False,
) -> OpenApiParameter:
    where: Literal["header", "query"] = "header" if header else "query"
    return OpenApiParameter(name, type_, where, description=text, many=many, enum=enum)


@cache
def _route_names() -> dict[type, str]:
    """View class -> route name, for every API view."""
    names: dict[type, str] = {}
    for module, prefix in (("searchapp.api.urls", "api:"), ("searchapp.api.health_urls", "")):
        for pattern in get_resolver(module).url_patterns:
            if isinstance(pattern, URLPattern) and hasattr(pattern.callback, "cls"):
                names[pattern.callback.cls] = f"{prefix}{pattern.name}"
    return names


__all__ = ["DocumentedSchema", "Error", "OpenApiParameter", "Request", "operation", "parameter"]
