"""The two buttons that move the pointer, each with one confirmation that says what it means in measured words."""

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.html import format_html

from searchapp.exceptions import SearchAppError
from searchapp.models import Deployment, Job, JobState
from searchapp.services import deploying, verdict_reading, verdicts
from searchapp.services.going_back import RollbackOutlook, rollback_outlook
from searchapp.services.model_overview import (
    ModelOverview,
    VersionFacts,
    model_overview,
    photos_out_of_reach,
    unlearned,
)
from searchapp.views.consequence_cards import promotion_consequences, rollback_words
from searchapp.views.history_cards import arm_words
from searchapp.views.increment_cards import increment_card, names_listed
from searchapp.views.jobs import staff_of
from searchapp.views.model_cards import card_of
from searchapp.views.promote_form import PromoteForm, promote_choices, promote_form
from searchapp.views.verdict_cards import sentence_of


def model_promote(request: HttpRequest, version: str) -> HttpResponse:
    """GET: what would change, in measured words. POST: put the version in use, or give it a part of the queries."""
    overview = model_overview()
    facts = _facts(overview, version)
    tried = overview.candidate if overview.candidate and overview.candidate.version == facts.version else None
    form = promote_form(request, _of_trial(tried) if "share" in request.GET else None)
    if not form.is_bound:
        return _promote_page(request, overview, facts, form)
    if not form.is_valid():
        return _promote_page(request, overview, facts, form, status=400)
    try:
        wish = form.arguments()
        deploying.version_promote(version=facts.version, user=staff_of(request), **wish)
    except SearchAppError as error:
        form.refuse(error)
        return _promote_page(request, overview, facts, form, status=error.status)
    done = "it answers its part" if deploying.is_canary(wish) else "put in use"
    messages.success(request, f"{version} is checked once more, then {done}.")
    return HttpResponseRedirect(reverse("models"))


def model_rollback(request: HttpRequest) -> HttpResponse:
    """GET: what going back means. POST: go back, unless somebody moved the pointer since the page was made."""
    if request.method == "POST":
        try:
            job = deploying.version_rollback(user=staff_of(request), expected_deployment=_seen(request))
            _tell_of_going_back(request, job)
        except SearchAppError as error:
            messages.error(request, error.message)
        return HttpResponseRedirect(reverse("models"))
    outlook = rollback_outlook()
    if outlook is None:
        messages.error(request, "There is no version to go back to: the one in use is the first.")
        return HttpResponseRedirect(reverse("models"))
    if outlook.leaving.arm == Deployment.Arm.CANDIDATE:
        context = {"outlook": outlook, "what": arm_words(outlook.leaving)}
        return render(request, "models/end_trial.html", context)
    return _rollback_page(request, outlook)


def _rollback_page(request: HttpRequest, outlook: RollbackOutlook) -> HttpResponse:
    overview, target, leaving = model_overview(), outlook.target, outlook.leaving.version
    context = {
        "card": card_of(overview.facts_of(target), overview),
        "in_use": leaving,
        "deployment": outlook.leaving.pk,
        "added": rollback_words(outlook),
        "unlearned": names_listed(unlearned(leaving, target)),
        "photos": overview.photos,
        "missing": photos_out_of_reach(target),
    }
    made = overview.facts_of(leaving).increment
    if made is not None and made.result.get("parent") == target.name:
        context["undone"] = increment_card(made)
        context["measured_then"] = (
            f"Measured when {leaving.name} was learned, on held-out photos, their number in brackets: "
            f"before is {target.name}."
        )
    return render(request, "models/rollback.html", context)


def _seen(request: HttpRequest) -> int | None:
    """The deployment that the page said is left; 0, which none has, for what is not a number."""
    text = request.POST.get("deployment")
    if text is None:
        return None
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _tell_of_going_back(request: HttpRequest, job: Job) -> None:
    if job.state == JobState.DONE:
        result = job.result or {}
        ended = "ended" in result
        words = f"The trial of {result['previous']} has ended; {result['serving']} answers every query."
        messages.success(request, words if ended else f"{result['serving']} is in use again.")
        return
    words = '{} is under way: <a href="{}">see how far it is</a>.'
    messages.info(request, format_html(words, job.subject, reverse("job", args=[job.pk])))


def _promote_page(
    request: HttpRequest,
    overview: ModelOverview,
    facts: VersionFacts,
    form: PromoteForm,
    *,
    status: int = 200,
) -> HttpResponse:
    digest = deploying.corrector_to_serve(facts.version)
    obstacles = deploying.obstacles_of(facts.version, corrector_digest=digest)
    in_use = overview.in_use.version if overview.in_use else None
    judged = verdict_reading.verdict_facts(facts.version, in_use) if in_use else None
    found = judged.verdict if judged and judged.holds else None
    report = verdicts.report_of(found) if found else None
    context = {
        "card": card_of(facts, overview),
        "photos": overview.photos,
        "missing": photos_out_of_reach(facts.version),
        "in_use": in_use,
        "deployment": overview.in_use.pk if overview.in_use else "",
        "on_trial": overview.candidate,
        "is_tried": overview.candidate is not None and overview.candidate.version == facts.version,
        "corrector": digest,
        "sentence": sentence_of(report) if report else None,
        "measured": promotion_consequences(report) if report else [],
        "obstacles": obstacles,
        "is_blocked": any(not obstacle.can_override for obstacle in obstacles),
        "needs_reason": bool(obstacles),
        "form": form,
        "choices": promote_choices(form),
    }
    return render(request, "models/promote.html", context, status=status)


def _of_trial(tried: Deployment | None) -> dict[str, object]:
    """The scope of the trial that is to be changed: what is not changed stays as it is."""
    if tried is None:
        return {}
    scope = next((f"{kind}={value}" for kind, value in tried.scope.items()), "")
    return {"scope": scope, "shadow": tried.is_shadow, "change_note": tried.change_note}


def _facts(overview: ModelOverview, name: str) -> VersionFacts:
    found = next((facts for facts in overview.versions if facts.version.name == name), None)
    if found is None:
        raise Http404
    return found
