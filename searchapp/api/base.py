"""What all API views share."""

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from searchapp.access import Role
from searchapp.api.parsers import refuse_unstorable_text
from searchapp.api.schema import DocumentedSchema
from searchapp.exceptions import InvalidInput
from searchapp.models import ApiKey
from searchapp.visitor import client_address


class ApiView(APIView):
    """JSON whatever the Accept header says; who may call is in `searchapp.access`, not here."""

    role: Role = Role.ANONYMOUS  # set by the permission check
    schema = DocumentedSchema()

    def perform_content_negotiation(
        self,
        request: Request,  # noqa: ARG002
        force: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> tuple[BaseRenderer, str]:
        renderer = JSONRenderer()
        return renderer, renderer.media_type

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
            raise InvalidInput("The body has no Content-Length; a chunked one is not read.")
        refuse_unstorable_text(kwargs)
        refuse_unstorable_text(dict(request.query_params.lists()))

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        finished = super().finalize_response(request, response, *args, **kwargs)
        finished.headers.setdefault("Cache-Control", "private, no-cache")
        return finished

    @property
    def is_anonymous(self) -> bool:
        return self.role == Role.ANONYMOUS

    @property
    def is_staff(self) -> bool:
        return self.role >= Role.STAFF

    @property
    def person(self) -> AbstractBaseUser | None:
        return self.request.user if isinstance(self.request.user, AbstractBaseUser) else None

    @property
    def client(self) -> str:
        """The caller's address, as throttles count it."""
        return client_address(self.request.META)

    @property
    def visitor(self) -> str:
        """Who a canary's share takes or leaves: the key, else the caller's address."""
        key = self.request.auth
        return f"key {key.pk}" if isinstance(key, ApiKey) else self.client


__all__ = ["ApiView", "Request", "Response"]
