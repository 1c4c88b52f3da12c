"""One error shape for every failure: {"error": {"code", "message", "fields", "request_id"}}."""

from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import (
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
    TooManyFilesSent,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse, UnreadablePostError
from rest_framework import exceptions
from rest_framework.views import set_rollback

from searchapp.exceptions import ImageTooLarge, SearchAppError, Unavailable
from searchapp.uploads import UploadTooLarge

API_PREFIX = "/api/"
MALFORMED = "malformed_body"
# DRF's own exceptions by class; anything else goes by its status.
CODES = {
    400: "invalid_input",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What the caller is told."""

    status: int
    code: str
    message: str
    fields: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


UNEXPECTED = Failure(
    500, "internal_error", "Something went wrong on our side. It has been logged under this request id."
)


def exception_handler(exc: Exception, context: dict[str, Any]) -> JsonResponse | None:
    """For REST_FRAMEWORK: the one shape for all that is expected; the rest is logged and ends as a 500."""
    failure = failure_of(exc)
    if failure is None:
        return None
    set_rollback()
    return error_response(context["request"], failure)


def error_response(request: HttpRequest, failure: Failure) -> JsonResponse:
    request_id = request.META.get("REQUEST_ID", "")
    body = {
        "code": failure.code,
        "message": failure.message,
        "fields": failure.fields,
        "request_id": request_id,
    }
    return JsonResponse({"error": body}, status=failure.status, headers=failure.headers)


def failure_of(exc: BaseException | None) -> Failure | None:  # noqa: PLR0911  a table, one row per kind
    """What to tell about an exception; None when nobody expected it: the caller learns nothing but a 500."""
    match exc:
        case SearchAppError():
            wait = getattr(exc, "retry_after_seconds", None)
            headers = {} if wait is None else {"Retry-After": str(wait)}
            return Failure(exc.status, exc.code, exc.message, exc.fields, headers)
        case OperationalError() | InterfaceError():
            away = Unavailable("The database cannot be reached just now; try again in a moment.")
            return failure_of(away)
        case UploadTooLarge() | RequestDataTooBig():
            return _too_large(exc)
        case Http404():
            return Failure(404, "not_found", "There is nothing at this address.")
        case PermissionDenied():
            return Failure(403, "not_allowed", str(exc) or "You may not do this.")
        case exceptions.APIException():
            return _from_rest_framework(exc)
        case TooManyFieldsSent() | TooManyFilesSent():
            return Failure(400, MALFORMED, "Too many fields or files in one request.")
        case SuspiciousOperation() | UnreadablePostError():  # their texts speak of settings
            return Failure(400, MALFORMED, "The request cannot be read; it is not well formed.")
    return None


def _too_large(exc: RequestDataTooBig) -> Failure:
    if isinstance(exc, UploadTooLarge) and not exc.is_import:
        return Failure(413, ImageTooLarge.code, str(exc))
    return Failure(413, "too_large", str(exc))


def _from_rest_framework(exc: exceptions.APIException) -> Failure:
    fields: dict[str, str] = {}
    message = str(exc.detail)
    if isinstance(exc.detail, dict):
        fields = _flat(exc.detail)
        message = "Not right: " + "; ".join(f"{name}: {text}" for name, text in fields.items())
    elif isinstance(exc.detail, list):
        message = " ".join(str(part) for part in exc.detail)
    headers = {}
    if auth_header := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = str(auth_header)
    code = CODES.get(exc.status_code, exc.default_code)
    if isinstance(exc, exceptions.ParseError):
        code = MALFORMED
    elif exc.default_code == "csrf_failed":
        code = "csrf_failed"
    return Failure(exc.status_code, code, message, fields, headers)


def _flat(detail: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Serializer errors, which nest, as one sentence per field: {"tags.2": "…"}."""
    found: dict[str, str] = {}
    for name, value in detail.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            parts = value if isinstance(value, list) else [value]
            found[f"{prefix}{name}"] = " ".join(str(part) for part in parts)
    return found
