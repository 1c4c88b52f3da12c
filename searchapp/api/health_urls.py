"""Outside /api/v1, where probes and scrapers look for them."""

from django.urls import URLPattern, URLResolver, path

from searchapp.api.health import LiveView, MetricsView, ReadyView

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz/live", LiveView.as_view(), name="health-live"),
    path("healthz/ready", ReadyView.as_view(), name="health-ready"),
    path("metrics", MetricsView.as_view(), name="metrics"),
]
