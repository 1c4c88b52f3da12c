"""The API's description, for programs (OpenAPI) and for people (Swagger UI from our own static files)."""

from functools import cache

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView

from searchapp.api.base import ApiView, Request
from searchapp.api.permissions import DenyUnlessListed

RENDERERS = {"json": OpenApiJsonRenderer, "yaml": OpenApiYamlRenderer}


class SchemaView(ApiView):
    """YAML, or JSON with ?format=json. Made once per process, for it costs a quarter of a second."""

    authentication_classes = ()

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        asked = request.query_params.get("format", request.headers.get("Accept", ""))
        wanted = "json" if "json" in asked else "yaml"
        return HttpResponse(_rendered(wanted), content_type=RENDERERS[wanted].media_type)


class DocsView(SpectacularSwaggerSplitView):
    """No inline script or style: the page lives under the same policy as every other."""

    authentication_classes = ()
    permission_classes = (DenyUnlessListed,)
    template_name = "api/docs.html"
    url_name = "api:schema"


@csrf_exempt
def unknown(request: HttpRequest, path: str = "") -> HttpResponseBase:
    """Everything else under /api: the 404 of the API, not of the pages."""
    del request, path
    raise Http404


@cache
def _rendered(wanted: str) -> bytes:
    document = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    rendered = RENDERERS[wanted]().render(document, renderer_context={})
    return rendered if isinstance(rendered, bytes) else rendered.encode()
