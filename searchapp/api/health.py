"""Probes and figures for whatever watches the service."""

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework import serializers

from searchapp.api.base import ApiView, Request, Response
from searchapp.api.schema import operation
from searchapp.exceptions import Unavailable
from searchapp.services import health, metrics


class Live(serializers.Serializer[None]):
    status = serializers.ChoiceField(["live"])


class Ready(serializers.Serializer[None]):
    status = serializers.ChoiceField(["ready", "not_ready"])
    checks = serializers.DictField(child=serializers.DictField())


class LiveView(ApiView):
    """Asks nothing of the database: whoever can answer this must not be restarted for what others do."""

    authentication_classes = ()

    @operation("health_live", "Is the process there?", answers={200: Live})
    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response({"status": "live"})


class ReadyView(ApiView):
    authentication_classes = ()

    @operation("health_ready", "Can it answer searches?", answers={200: Ready, 503: Ready})
    def get(self, request: Request) -> Response:  # noqa: ARG002
        found = health.readiness()
        if found.is_ready:
            return Response({"status": "ready", "checks": found.checks})
        headers = {"Retry-After": str(Unavailable.retry_after_seconds)}
        return Response({"status": "not_ready", "checks": found.checks}, status=503, headers=headers)


class MetricsView(ApiView):
    @operation(
        "metrics", "Figures in Prometheus's text format", answers={(200, "text/plain"): OpenApiTypes.STR}
    )
    def get(self, request: Request) -> HttpResponse:  # noqa: ARG002
        return HttpResponse(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)
