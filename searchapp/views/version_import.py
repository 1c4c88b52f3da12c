"""The page that takes in a version from outside: a file, and what came of those before."""

from dataclasses import dataclass

from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.exceptions import SearchAppError
from searchapp.models import Job
from searchapp.services import version_intake
from searchapp.services.database_clock import database_now
from searchapp.views.jobs import JobRow, row_of, staff_of

LISTED = 10


@dataclass(frozen=True, slots=True)
class Import:
    row: JobRow
    words: str  # what came of it


def version_import(request: HttpRequest) -> HttpResponse:
    """GET /ops/versions/import: the form and the imports so far. POST: take in a zip of a bundle."""
    problem, status = "", 200
    if request.method == "POST":
        upload = request.FILES.get("file")
        try:
            if isinstance(upload, UploadedFile):
                version_intake.version_upload(
                    chunks=upload.chunks(), name=upload.name or "", user=staff_of(request)
                )
                messages.success(request, "The files are whole. The version is being checked further.")
                return HttpResponseRedirect(reverse("version-import"))
            problem, status = "Choose a zip first.", 400
        except SearchAppError as error:
            problem, status = error.message, error.status
    imports = _imports()
    context = {
        "problem": problem,
        "files": version_intake.FILES,
        "imports": imports,
        "is_live": any(found.row.is_active for found in imports),
    }
    return render(request, "models/version_import.html", context, status=status)


def _imports() -> list[Import]:
    now = database_now()
    jobs = Job.objects.filter(kind=version_intake.KIND).select_related("created_by").order_by("-created_at")
    return [
        Import(row_of(job, now), str((job.result or {}).get("words") or job.error or job.message))
        for job in jobs[:LISTED]
    ]
