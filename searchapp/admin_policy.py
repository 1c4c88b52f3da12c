"""The admin's own content security policy: everything from here, framed by nobody, sent nowhere else.

The admin's theme evaluates expressions that stand in its pages, so `unsafe-inline` and `unsafe-eval` cannot be avoided
there; its pages show signed-in staff what services have checked, escaped by templates.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

PREFIX = "/admin/"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; form-action 'self'; frame-ancestors 'none'; base-uri 'self'; object-src 'none'"
)


class AdminPolicyMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.path.startswith(PREFIX):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response
