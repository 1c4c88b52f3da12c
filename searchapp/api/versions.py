"""Model versions, for operators."""

from django.db.models import Prefetch

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.resources import version_resource
from searchapp.api.schema import operation
from searchapp.models import Deployment, ModelVersion


class ModelVersionsView(ApiView):
    @operation(
        "model_version_list", "List model versions and what serves", answers={200: documents.VersionList}
    )
    def get(self, request: Request) -> Response:  # noqa: ARG002
        live = Prefetch("deployments", Deployment.objects.filter(ended_at__isnull=True))
        rows = ModelVersion.objects.select_related("parent").prefetch_related(live)
        versions = [version_resource(version) for version in rows]
        return Response({"count": len(versions), "results": versions})
