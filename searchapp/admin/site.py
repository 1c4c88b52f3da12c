"""The staff's first page, and who sees which entry of the sidebar."""

from typing import Any

from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Exists, OuterRef, Q
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse

from searchapp.models import (
    Deployment,
    EvaluationQuery,
    Feedback,
    GalleryEntry,
    Item,
    ItemImage,
    Job,
    JobState,
)
from searchapp.services.category_progress import learnable_count
from searchapp.services.duplicate_pairs import undecided_count

LATEST = 5


def login(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponseBase:
    """One sign-in page for everything; somebody signed in without the right is told so, not asked again."""
    del extra_context
    if request.user.is_authenticated and not admin.site.has_permission(request):
        raise PermissionDenied
    after = request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index")
    return redirect_to_login(after, login_url=reverse("login"))


admin.site.login = login  # type: ignore[assignment]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Figures and work in progress; a handful of queries whatever the size of the catalogue."""
    del request
    coded = Exists(GalleryEntry.objects.filter(image=OuterRef("pk")))
    photos = ItemImage.objects.annotate(is_coded=coded).aggregate(
        searchable=Count("pk", filter=Q(failure="", is_coded=True)),
        pending=Count("pk", filter=Q(failure="", is_coded=False)),
        failed=Count("pk", filter=~Q(failure="")),
    )
    champion = (
        Deployment.objects.select_related("version", "created_by")
        .filter(arm=Deployment.Arm.CHAMPION, ended_at=None)
        .first()
    )
    context["figures"] = [
        {"label": "Items", "value": Item.objects.count(), "query": ""},
        {"label": "Photos searchable", "value": photos["searchable"], "query": "?state=searchable"},
        {"label": "Photos waiting", "value": photos["pending"], "query": "?state=pending"},
        {"label": "Photos failed", "value": photos["failed"], "query": "?state=failed"},
        {"label": "Held-out photos", "value": EvaluationQuery.objects.count(), "query": None},
    ]
    context["alike"] = undecided_count()
    context["learnable"] = learnable_count()
    context["champion"] = champion
    context["active_jobs"] = Job.objects.filter(state__in=[JobState.QUEUED, JobState.RUNNING])[:LATEST]
    context["failed_jobs"] = Job.objects.filter(state=JobState.FAILED)[:LATEST]
    context["wrong"] = Feedback.objects.filter(verdict=Feedback.Verdict.WRONG).order_by("-pk")[:LATEST]
    return context


def never(request: HttpRequest) -> bool:  # noqa: ARG001
    """The search page is outside the admin, so its entry is never the present one."""
    return False


def may_view_items(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_item")


def may_import(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.add_item")


def may_view_quality(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_evaluationquery")


def may_view_feedback(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_feedback")


def may_view_versions(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_modelversion")


def may_view_audit(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_auditevent")


def may_view_keys(request: HttpRequest) -> bool:
    return request.user.has_perm("searchapp.view_apikey")


def may_view_users(request: HttpRequest) -> bool:
    return request.user.has_perm("auth.view_user")
