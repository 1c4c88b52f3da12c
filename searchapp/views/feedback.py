"""“This is it” and “not this”: one tap, and one to take it back."""

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from searchapp.access import Role, role_of
from searchapp.addresses import item_url
from searchapp.exceptions import SearchAppError
from searchapp.services import query_log
from searchapp.services.throttling import search_spend
from searchapp.views.cards import FeedbackForm
from searchapp.visitor import client_address


def feedback(request: HttpRequest) -> HttpResponse:
    """POST: keep, change or (empty verdict) take back what somebody says of one result."""
    form = FeedbackForm(
        query_id=request.POST.get("query_id", "")[:60],
        sku=request.POST.get("sku", "")[:120],
        title=request.POST.get("title", "")[:300],
        said=request.POST.get("verdict", "")[:10],
    )
    image = request.FILES.get("image")
    try:
        if role_of(request.user, None) == Role.ANONYMOUS:
            search_spend(client=client_address(request.META), scope="feedback")
        query_log.feedback_record(
            form.query_id,
            sku=form.sku,
            verdict=form.said or None,
            user=request.user if request.user.is_authenticated else None,
            image=image.read() if isinstance(image, UploadedFile) else None,
        )
    except SearchAppError as error:
        template = "_note.html" if request.htmx else "search/feedback.html"  # type: ignore[attr-defined]
        problem = {"kind": "error", "text": error.message, "item_url": ""}
        return render(request, template, problem, status=error.status)
    context: dict[str, Any] = {"feedback": form, "item_url": item_url(form.sku)}
    return render(request, "search/_feedback.html" if request.htmx else "search/feedback.html", context)  # type: ignore[attr-defined]
