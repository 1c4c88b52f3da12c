"""The pages of a category: adding one with its photos, and watching it become searchable and learned."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRedirect

from searchapp.access import Role, role_of
from searchapp.admin import category_words as words
from searchapp.admin.category_forms import CategoryAddForm, PhotosForm
from searchapp.exceptions import SearchAppError
from searchapp.job_kinds import may_steer
from searchapp.models import Category
from searchapp.services import category_adding, jobs, learning, previews
from searchapp.services.category_progress import PHOTOS_SHOWN, CategoryProgress, category_progress
from searchapp.services.media import media_read

ADDS_ITEMS = ("searchapp.add_item", "searchapp.add_itemimage")  # photos of a category are photos of its items


def category_add_page(request: HttpRequest, admin: Any) -> HttpResponse:
    """GET: the form. POST: the category with its photos, then its page."""
    if not admin.has_add_permission(request) or not request.user.has_perms(ADDS_ITEMS):
        raise PermissionDenied
    form_class = admin.get_form(request, None, change=False, form=CategoryAddForm)
    form = form_class(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        try:
            with form.batch() as batch:
                category = category_adding.category_add(batch=batch, user=_user(request), **form.arguments())
        except SearchAppError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{category.name} was added.")
            return _to(request, _page_url(category))
    context = {
        **admin.admin_site.each_context(request),
        "form": form,
        "title": "Add category",
        "opts": admin.opts,
    }
    return _form_page(request, "admin/category_add.html", context, form)


def category_page(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """GET: the whole page; for htmx the part that moves."""
    category = _category(category_id)
    if not admin.has_view_permission(request, category):
        raise PermissionDenied
    context = _page_context(request, admin, category_progress(category))
    if request.htmx:  # type: ignore[attr-defined]
        response: HttpResponse = TemplateResponse(request, "admin/_category.html", context)
    else:
        context |= {**admin.admin_site.each_context(request), "form": PhotosForm()}
        response = TemplateResponse(request, "admin/category.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


def category_photos(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """POST: more photos of a category."""
    category = _to_change(request, admin, category_id)
    if not request.user.has_perms(ADDS_ITEMS):
        raise PermissionDenied
    form = PhotosForm(request.POST, request.FILES)
    if form.is_valid():
        try:
            with form.batch() as batch:
                added = category_adding.photos_add(
                    category=category, batch=batch, one_item=form.is_one_item, user=_user(request)
                )
        except SearchAppError as error:
            form.refuse(error)
        else:
            known = "" if added else "; they were there already"
            messages.success(request, f"{words.photos_word(added)} added{known}.")
            return _to(request, _page_url(category))
    context = _page_context(request, admin, category_progress(category))
    context |= {**admin.admin_site.each_context(request), "form": form}
    return _form_page(request, "admin/category.html", context, form)


def category_learn(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """POST: learn it, again if need be, with all others that wait."""
    category = _to_change(request, admin, category_id)
    learn(request, [])
    return HttpResponseRedirect(_page_url(category))


def category_cancel(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """POST: end the learning of it, and of those learned with it."""
    category = _to_change(request, admin, category_id)
    job = category_progress(category).job
    if job is not None and may_steer(role_of(request.user, None), job.kind):
        try:
            jobs.job_cancel(job, _user(request))
            messages.success(request, "Learning is being cancelled. Nothing stored was changed.")
        except SearchAppError as error:
            messages.error(request, error.message)
    return HttpResponseRedirect(_page_url(category))


def categories_learn(request: HttpRequest, admin: Any) -> HttpResponse:
    """POST: learn all that wait and have photos."""
    if not admin.has_change_permission(request):
        raise PermissionDenied
    if request.method != "POST":
        raise Http404
    learn(request, [])
    return HttpResponseRedirect(reverse("admin:searchapp_category_changelist"))


def learn(request: HttpRequest, slugs: list[str]) -> None:
    """Learn these categories, or all that wait when there are none, and say so."""
    try:
        job = learning.learn_start(user=_user(request), categories=slugs)
        messages.success(request, f"{job.subject}: it starts as soon as no other training runs.")
    except SearchAppError as error:
        messages.error(request, error.message)


def _page_context(request: HttpRequest, admin: Any, progress: CategoryProgress) -> dict[str, Any]:
    category, role = progress.category, role_of(request.user, None)
    may_change = admin.has_change_permission(request, category)
    is_newest = progress.version is not None and progress.version == progress.learned_by
    return {
        "opts": admin.opts,
        "title": category.name,
        "category": category,
        "progress": progress,
        "state_word": words.STATE_WORDS[progress.state],
        "state_sign": words.STATE_SIGNS[progress.state],
        "headline": words.headline(progress),
        "steps": words.steps_shown(progress),
        "photos": words.photos_shown(progress.photos),
        "has_held_out": any(photo.is_held_out for photo in progress.photos),
        "more_photos": max(0, progress.counts.total - PHOTOS_SHOWN),
        "reason": words.reason_words(progress),
        "proof": words.proof_shown(progress),
        "gates": words.gates_shown(progress.gates),
        "measure": words.MEAN_AP,
        "may_change": may_change,
        "may_add_photos": may_change and request.user.has_perms(ADDS_ITEMS),
        "may_cancel": may_change and _may_cancel(progress, role),
        "may_learn": may_change and progress.may_learn,
        "may_undo": role >= Role.OPERATOR and progress.state == "learned" and is_newest,
        "try_photo": _try_photo(progress),
        "change_url": reverse("admin:searchapp_category_change", args=[category.pk]),
        "items_url": f"{reverse('admin:searchapp_item_changelist')}?category__id__exact={category.pk}",
    }


def _may_cancel(progress: CategoryProgress, role: Role) -> bool:
    job = progress.job
    if job is None or job.is_finished or progress.state == "learned":  # in use: only going back undoes that
        return False
    return not job.cancel_requested and may_steer(role, job.kind)


def _try_photo(progress: CategoryProgress) -> str:
    """A copy of one of its photos for the search page, where no held-out one can be named."""
    if progress.is_active or progress.try_with is not None or not progress.counts.findable:
        return ""
    image = next((photo.image for photo in progress.photos if photo.state != "failed"), None)
    try:
        return previews.preview_url(media_read(image.path)) if image else ""
    except (SearchAppError, OSError):  # the photo's own state says what is wrong with it
        return ""


def _form_page(
    request: HttpRequest, template: str, context: dict[str, Any], form: PhotosForm
) -> HttpResponse:
    """The page with its form; for htmx what is wrong alone, so that chosen files stay chosen."""
    if request.htmx and form.errors:  # type: ignore[attr-defined]
        return TemplateResponse(request, "admin/_form_problems.html", context)
    return TemplateResponse(request, template, context, status=400 if form.errors else 200)


def _to(request: HttpRequest, address: str) -> HttpResponse:
    if request.htmx:  # type: ignore[attr-defined]
        return HttpResponseClientRedirect(address)
    return HttpResponseRedirect(address)


def _to_change(request: HttpRequest, admin: Any, category_id: int) -> Category:
    category = _category(category_id)
    if not admin.has_change_permission(request, category):
        raise PermissionDenied
    if request.method != "POST":
        raise Http404
    return category


def _category(category_id: int) -> Category:
    category = Category.objects.select_related("parent").filter(pk=category_id).first()
    if category is None:
        raise Http404
    return category


def _page_url(category: Category) -> str:
    return reverse("admin:category_page", args=[category.pk])


def _user(request: HttpRequest) -> Any:
    return request.user
