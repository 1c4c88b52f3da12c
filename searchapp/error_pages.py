"""What Django shows when no view could answer: the error shape under /api, a page elsewhere."""

import sys

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from searchapp.api.errors import API_PREFIX, UNEXPECTED, Failure, error_response, failure_of


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    failure = failure_of(exception) or Failure(400, "invalid_input", "The request cannot be read.")
    if request.path.startswith(API_PREFIX):
        return error_response(request, failure)
    return _with(defaults.bad_request(request, exception), failure)


def not_allowed(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith(API_PREFIX):
        return error_response(request, failure_of(exception) or UNEXPECTED)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith(API_PREFIX):
        return error_response(request, failure_of(exception) or UNEXPECTED)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Called while the exception is being handled; a database that is away is a 503."""
    failure = failure_of(sys.exc_info()[1]) or UNEXPECTED
    if request.path.startswith(API_PREFIX):
        return error_response(request, failure)
    return _with(defaults.server_error(request), failure)


def _with(response: HttpResponse, failure: Failure) -> HttpResponse:
    response.status_code = failure.status
    for name, value in failure.headers.items():
        response[name] = value
    return response
