"""“Import a catalogue”: a file, a trial run, its report, and then the import itself; all of it as jobs."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from searchapp.admin.forms import ImportForm
from searchapp.exceptions import SearchAppError
from searchapp.models import Job
from searchapp.services import importing
from searchapp.services.importing import ImportOptions


def import_catalogue(request: HttpRequest, admin: Any) -> HttpResponse:
    """GET: the form. POST: keep the file, start the trial run or the import, go to its report."""
    if not admin.has_add_permission(request):
        raise PermissionDenied
    form = ImportForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        upload = form.cleaned_data["file"]
        try:
            source = importing.import_upload_store(upload.chunks(), upload.name)
            options = ImportOptions(dry_run=form.cleaned_data["trial"])
            job = importing.import_start(source=source, options=options, user=_user(request))
        except SearchAppError as error:
            form.add_error("file", error.message)
        else:
            return HttpResponseRedirect(reverse("job", args=[job.pk]))
    context = {
        **admin.admin_site.each_context(request),
        "form": form,
        "title": "Import a catalogue",
        "opts": admin.opts,
    }
    status = 400 if form.errors else 200
    return TemplateResponse(request, "admin/import_catalogue.html", context, status=status)


def import_confirm(request: HttpRequest, admin: Any, job_id: UUID) -> HttpResponse:
    """POST: import what the trial run of `job_id` looked at. Pressed twice, it is one import."""
    if not admin.has_add_permission(request):
        raise PermissionDenied
    trial = Job.objects.filter(pk=job_id, kind=importing.KIND).first()
    if trial is None or request.method != "POST":
        raise Http404
    try:
        job = importing.import_start_after_trial(trial=trial, user=_user(request))
    except SearchAppError as error:
        messages.error(request, error.message)
        return HttpResponseRedirect(reverse("job", args=[trial.pk]))
    return HttpResponseRedirect(reverse("job", args=[job.pk]))


def _user(request: HttpRequest) -> Any:
    return request.user
