"""What can be looked at but not changed here: held-out photos, versions, jobs, feedback, the audit log."""

import json
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from searchapp.addresses import item_url
from searchapp.admin.base import ReadOnlyAdmin, column, thumbnail
from searchapp.models import AuditEvent, EvaluationQuery, Feedback, Job, ModelVersion, thumbnail_path


@admin.register(EvaluationQuery)
class EvaluationQueryAdmin(ReadOnlyAdmin):
    list_display = ("photo", "source", "split", "category", "relevance", "try_it")
    list_filter = ("split", "relevance")
    search_fields = ("source", "category__path")
    list_select_related = ("category",)
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[EvaluationQuery]:
        """Without those of evaluation sets, which are the operators'."""
        found: QuerySet[EvaluationQuery] = super().get_queryset(request)
        return found.filter(evaluation_set=None)

    @column(description="Photo")
    def photo(self, query: EvaluationQuery) -> str:
        return thumbnail(f"/media/{thumbnail_path(query.image_sha256)}", query.source)

    @column(description="Search")
    def try_it(self, query: EvaluationQuery) -> str:
        return format_html(
            '<a class="underline" href="{}?sample={}">Search with it</a>', reverse("start"), query.pk
        )


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "in_use",
        "method",
        "architecture",
        "code_bits",
        "size",
        "created_at",
        "short_digest",
    )
    exclude = ("manifest", "label_registry")
    readonly_fields = ("manifest_text", "label_count")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("deployments")

    @column(description="In use", boolean=True)
    def in_use(self, version: ModelVersion) -> bool:
        return any(deployment.ended_at is None for deployment in version.deployments.all())

    @column(description="Size")
    def size(self, version: ModelVersion) -> str:
        return f"{version.size_bytes / 1024:,.0f} kB"

    @column(description="Digest")
    def short_digest(self, version: ModelVersion) -> str:
        return f"{version.digest[:12]}…"

    @column(description="Manifest")
    def manifest_text(self, version: ModelVersion) -> str:
        return format_html("<pre>{}</pre>", json.dumps(version.manifest, indent=1, ensure_ascii=False))

    @column(description="Categories learned")
    def label_count(self, version: ModelVersion) -> int:
        return len(version.label_registry)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("subject", "kind", "state", "created_by", "created_at", "report")
    list_filter = ("state", "kind")
    list_select_related = ("created_by",)

    @column(description="Report")
    def report(self, job: Job) -> str:
        return format_html('<a class="underline" href="{}">Open</a>', reverse("job", args=[job.pk]))


@admin.register(Feedback)
class FeedbackAdmin(ReadOnlyAdmin):
    list_display = ("item", "verdict", "created_at", "query_id", "user")
    list_filter = ("verdict",)
    search_fields = ("sku",)
    list_select_related = ("user",)

    @column(description="Item")
    def item(self, feedback: Feedback) -> str:
        return format_html('<a class="underline" href="{}">{}</a>', item_url(feedback.sku), feedback.sku)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "actor_name", "action", "subject", "reason")
    list_filter = ("action",)
    search_fields = ("subject", "actor_name", "reason")
    date_hierarchy = "created_at"
