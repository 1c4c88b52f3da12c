"""One error shape for every failure: {"error": {"code", "message", "fields", "request_id"}}."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from searchapp.exceptions import SearchAppError, Unavailable

CODES = {
    400: "invalid_input",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


def error_body(code: str, message: str, fields: dict[str, str], request_id: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields, "request_id": request_id}}


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Turn service errors and DRF's own into the one shape; anything unexpected stays a 500 without a trace."""
    request_id = context["request"].META.get("REQUEST_ID", "")
    if isinstance(exc, SearchAppError):
        headers = {"Retry-After": str(exc.retry_after_seconds)} if isinstance(exc, Unavailable) else None
        body = error_body(exc.code, exc.message, exc.fields, request_id)
        return Response(body, status=exc.status, headers=headers)
    if isinstance(exc, Http404):
        exc = exceptions.NotFound("There is nothing at this address.")
    if isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied()
    if not isinstance(exc, exceptions.APIException):
        return None
    return _from_rest_framework(exc, request_id)


def _from_rest_framework(exc: exceptions.APIException, request_id: str) -> Response:
    fields: dict[str, str] = {}
    message = str(exc.detail) if not isinstance(exc.detail, dict | list) else "Some fields are not right."
    if isinstance(exc.detail, dict):
        fields = {name: " ".join(str(part) for part in _flat(value)) for name, value in exc.detail.items()}
    elif isinstance(exc.detail, list):
        message = " ".join(str(part) for part in exc.detail)
    headers = {}
    if auth_header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if isinstance(exc, exceptions.Throttled) and exc.wait is not None:
        headers["Retry-After"] = str(int(exc.wait) + 1)
    code = CODES.get(exc.status_code, exc.default_code)
    return Response(error_body(code, message, fields, request_id), status=exc.status_code, headers=headers)


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
