"""The pages that merge a category into another, split one, and delete one with everything in it."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from searchapp.admin import category_move_words as words
from searchapp.admin.category_move_forms import DeleteForm, MergeForm, SplitForm
from searchapp.exceptions import SearchAppError
from searchapp.models import Category
from searchapp.services import category_moves
from searchapp.services.category_contents import contents_of, contents_of_items, items_found

ITEMS_SHOWN = 120


def urls(admin: Any) -> list[URLPattern]:
    """Routes below the list of categories."""

    def page(view: Any) -> Any:
        def shown(request: HttpRequest, category_id: int) -> HttpResponse:
            response: HttpResponse = view(request, admin, category_id)
            return response

        return admin.admin_site.admin_view(shown)

    return [
        path("<int:category_id>/merge/", page(category_merge), name="category_merge"),
        path("<int:category_id>/split/", page(category_split), name="category_split"),
        path("<int:category_id>/delete-all/", page(category_delete_all), name="category_delete_all"),
    ]


def category_merge(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """GET: choose the other one. POST: what will happen; with `confirmed`: it happens."""
    category = _category(request, category_id, "change_category", "delete_category", "change_item")
    form = MergeForm(request.POST or None, category=category)
    contents = contents_of(category)
    if form.is_bound and form.is_valid():
        into = form.cleaned_data["into"]
        if not form.is_confirmed:
            confirm = {
                "sentences": words.merge_sentences(category, into, contents),
                "contents": contents,
                "verb": f"Merge {category.name} into {into.name}",
                "hidden": form.hidden,
            }
            return _page(request, admin, category, "confirm", confirm)
        try:
            merge = category_moves.categories_merge(source=category, into=into, user=_user(request))
        except SearchAppError as error:
            form.refuse(error)
        else:
            messages.success(request, words.merged(category, merge))
            return _to(into)
    others = Category.objects.filter(vertical=category.vertical).exclude(pk=category.pk)
    known = others.values_list("path", flat=True)
    context = {"form": form, "contents": contents, "told": words.contents_told(contents), "known": known}
    return _page(request, admin, category, "merge", context)


def category_split(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """GET: tick items, of those that `words` find. POST: what will happen; with `confirmed`: it happens."""
    category = _category(request, category_id, "add_category", "change_category", "change_item")
    form = SplitForm(request.POST or None, category=category)
    if form.is_bound and form.is_valid():
        name, chosen = form.cleaned_data["name"], form.chosen
        if not form.is_confirmed:
            contents = contents_of_items(chosen)
            confirm = {
                "sentences": words.split_sentences(category, name, contents, category.items.count()),
                "contents": contents,
                "verb": f"Move {words.counted(len(chosen), 'item')} to {name}",
                "hidden": form.hidden,
            }
            return _page(request, admin, category, "confirm", confirm)
        try:
            new = category_moves.category_split(
                category=category, items=chosen, name=name, user=_user(request)
            )
        except SearchAppError as error:
            form.refuse(error)
        else:
            messages.success(request, words.split(category, new, len(chosen)))
            return _to(new)
    asked = (request.POST if form.is_bound else request.GET).get("words", "")[:200]
    found = items_found(category, asked)
    shown, chosen_ids = found[:ITEMS_SHOWN], set(request.POST.getlist("items"))
    context = {"form": form, "words": asked, "found": found.count(), "shown": shown, "chosen": chosen_ids}
    return _page(request, admin, category, "split", context)


def category_delete_all(request: HttpRequest, admin: Any, category_id: int) -> HttpResponse:
    """GET: what would go. POST, with the name typed: it goes."""
    category = _category(request, category_id, "delete_category", "delete_item")
    form = DeleteForm(request.POST or None, category=category)
    contents = contents_of(category)
    if form.is_bound and form.is_valid():
        try:
            category_moves.category_delete_with_items(
                category=category, typed_name=form.cleaned_data["typed_name"], user=_user(request)
            )
        except SearchAppError as error:
            form.refuse(error)
        else:
            messages.success(request, words.deleted(category, contents))
            return HttpResponseRedirect(reverse("admin:searchapp_category_changelist"))
    context = {"form": form, "contents": contents, "sentences": words.delete_sentences(category, contents)}
    return _page(request, admin, category, "delete_all", context)


def _page(
    request: HttpRequest, admin: Any, category: Category, name: str, context: dict[str, Any]
) -> HttpResponse:
    title = f"{context['verb']}?" if "verb" in context else words.TITLES[name].format(category.name)
    whole = {
        **admin.admin_site.each_context(request),
        "opts": admin.opts,
        "category": category,
        "title": title,
    }
    form = context.get("form")
    status = 400 if form is not None and form.errors else 200
    return TemplateResponse(request, f"admin/category_{name}.html", {**whole, **context}, status=status)


def _to(category: Category) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:category_page", args=[category.pk]))


def _category(request: HttpRequest, category_id: int, *permissions: str) -> Category:
    if not request.user.has_perms([f"searchapp.{name}" for name in permissions]):
        raise PermissionDenied
    category = Category.objects.filter(pk=category_id).first()
    if category is None:
        raise Http404
    return category


def _user(request: HttpRequest) -> Any:
    return request.user
