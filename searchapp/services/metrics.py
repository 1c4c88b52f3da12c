"""Figures for monitoring, of this process; of all of them together when PROMETHEUS_MULTIPROC_DIR is set."""

import os
from collections.abc import Iterable, Mapping

from django.db.models import Count
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from searchapp.exceptions import Unavailable
from searchapp.models import FINISHED_STATES, Job, OutboxMessage
from searchapp.services import serving

_registry = CollectorRegistry()
_searches = Counter("perennial_searches", "Searches asked", ["kind", "outcome"], registry=_registry)
_stages = Histogram(
    "perennial_search_stage_seconds",
    "Time a search spends in each stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=_registry,
)
_shadows = Counter(
    "perennial_shadow_answers",
    "Queries asked again of a candidate in the shadow",
    ["outcome"],
    registry=_registry,
)


def search_observe(*, kind: str, outcome: str, took_ms: Mapping[str, float] | None = None) -> None:
    """Count one search. kind: image, text, item, vector; outcome: answered (every search does that by itself),
    arm_failed (so does that; the champion may have answered instead), or the code of the error that the caller got."""
    _searches.labels(kind, outcome).inc()
    for stage, milliseconds in (took_ms or {}).items():
        _stages.labels(stage).observe(milliseconds / 1000)


def shadow_observe(outcome: str) -> None:
    """Count one query for the shadow: answered, failed or dropped."""
    _shadows.labels(outcome).inc()


def exposition() -> bytes:
    """All figures in Prometheus's text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(_Counted())
    registry.register(_State())
    return generate_latest(registry)


class _Counted(Collector):
    def collect(self) -> Iterable[Metric]:
        return _registry.collect()


class _State(Collector):
    """What is read when asked: the gallery this process serves, and the queues in the database."""

    def collect(self) -> Iterable[Metric]:
        yield _gallery_entries()
        jobs = GaugeMetricFamily("perennial_jobs", "Unfinished jobs", labels=["queue", "state"])
        unfinished = Job.objects.exclude(state__in=FINISHED_STATES).order_by()
        for row in unfinished.values("queue", "state").annotate(count=Count("pk")):
            jobs.add_metric([row["queue"], row["state"]], row["count"])
        yield jobs
        unpublished = OutboxMessage.objects.filter(published_at__isnull=True).count()
        yield GaugeMetricFamily("perennial_outbox_messages", "Messages not yet published", value=unpublished)


def _gallery_entries() -> Metric:
    entries = GaugeMetricFamily(
        "perennial_gallery_entries", "Entries served by this process", labels=["version", "arm"]
    )
    try:
        for arm in serving.current().arms:
            entries.add_metric([arm.version.name, arm.name], len(arm.view))
    except Unavailable:
        pass  # loading: no sample is more honest than a zero
    return entries
