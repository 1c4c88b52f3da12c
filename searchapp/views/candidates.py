"""Training a candidate: the form. The running training has the page that every training has (views.training)."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from searchapp.exceptions import SearchAppError
from searchapp.services import candidate_training
from searchapp.services.model_overview import model_overview
from searchapp.services.training_plan import training_plan
from searchapp.views.candidate_form import CandidateForm, candidate_page
from searchapp.views.jobs import staff_of


def train_candidate(request: HttpRequest) -> HttpResponse:
    """GET /ops/candidates/train: the choices. POST: start it, and follow it."""
    form = CandidateForm(request.POST if request.method == "POST" else None)
    if form.is_bound and form.is_valid():
        try:
            job = candidate_training.candidate_start(user=staff_of(request), **form.arguments())
            return HttpResponseRedirect(reverse("training", args=[job.pk]))
        except SearchAppError as error:
            form.refuse(error)
    context = {"form": form, "page": candidate_page(form, training_plan(), model_overview())}
    return render(request, "models/train_candidate.html", context, status=400 if form.errors else 200)
