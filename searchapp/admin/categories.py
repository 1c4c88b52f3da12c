"""Categories as a tree of paths, each with how far it is on its way to be learned."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from searchapp.admin import category_moves, category_pages
from searchapp.admin.base import column
from searchapp.admin.category_words import STATE_WORDS
from searchapp.admin.forms import CategoryForm, category_write
from searchapp.models import PATH_SEPARATOR, Category
from searchapp.services import catalogue
from searchapp.services.category_progress import learnable_count, with_learning_state

STATE_COLOURS = {"known": "default", "learned": "success", "learning": "info", "waiting": "warning"}


class LearningFilter(admin.SimpleListFilter):
    title = "learning"
    parameter_name = "learning"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(STATE_WORDS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Category]) -> QuerySet[Category]:
        annotated: Any = queryset
        return annotated.filter(learning_state=self.value()) if self.value() else queryset


@admin.register(Category)
class CategoryAdmin(ModelAdmin):  # type: ignore[misc]
    form = CategoryForm
    list_display = ("tree_path", "badge", "vertical", "item_count", "slug")
    list_display_links = None
    list_filter = (LearningFilter, "vertical")
    search_fields = ("path", "slug")
    autocomplete_fields = ("parent",)
    ordering = ("path",)
    list_per_page = 100
    actions = ("learn_selected",)
    list_before_template = "admin/_category_list_head.html"
    change_form_outer_before_template = "admin/_category_change_head.html"

    def get_actions(self, request: HttpRequest) -> Any:
        """Learning alone: categories are deleted one by one, each must be empty."""
        return {
            name: action for name, action in super().get_actions(request).items() if name == "learn_selected"
        }

    def get_queryset(self, request: HttpRequest) -> QuerySet[Category]:
        found: QuerySet[Category] = super().get_queryset(request)
        return with_learning_state(found.annotate(items_inside=Count("items")))

    @column(description="Category", ordering="path")
    def tree_path(self, category: Category) -> str:
        return format_html(
            '{}<a href="{}" class="{}">{}</a>',
            "\u2003" * category.path.count(PATH_SEPARATOR),
            reverse("admin:category_page", args=[category.pk]),
            "font-medium text-font-important-light underline dark:text-font-important-dark",
            category.name,
        )

    @column(description="Learning", label=STATE_COLOURS)
    def badge(self, category: Any) -> tuple[str, str]:
        return category.learning_state, STATE_WORDS[category.learning_state]

    @column(description="Items", ordering="items_inside")
    def item_count(self, category: Any) -> int:
        return int(category.items_inside)

    @admin.action(description="Learn the chosen categories", permissions=["change"])
    def learn_selected(self, request: HttpRequest, queryset: QuerySet[Category]) -> None:
        category_pages.learn(request, list(queryset.values_list("slug", flat=True)))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        learnable = learnable_count() if self.has_change_permission(request) else 0
        context = {**(extra_context or {}), "learnable": learnable}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A page of its own; the small window that an item's form opens asks for name and place alone."""
        if "_popup" in request.GET or "_popup" in request.POST:
            response: HttpResponse = super().add_view(request, form_url, extra_context)
            return response
        return category_pages.category_add_page(request, self)

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                "<int:category_id>/progress/", self._page(category_pages.category_page), name="category_page"
            ),
            path(
                "<int:category_id>/photos/",
                self._page(category_pages.category_photos),
                name="category_photos",
            ),
            path(
                "<int:category_id>/learn/", self._page(category_pages.category_learn), name="category_learn"
            ),
            path(
                "<int:category_id>/cancel/",
                self._page(category_pages.category_cancel),
                name="category_cancel",
            ),
            path("learn/", self._page(category_pages.categories_learn), name="categories_learn"),
        ]
        return own + category_moves.urls(self) + list(super().get_urls())

    def _page(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        def page(request: HttpRequest, **named: Any) -> HttpResponse:
            return view(request, self, **named)

        guarded: Callable[..., HttpResponse] = self.admin_site.admin_view(page)
        return guarded

    def save_model(self, request: HttpRequest, obj: Category, form: Any, change: bool) -> None:  # noqa: FBT001
        row = Category.objects.get(pk=obj.pk) if change else Category()
        saved = category_write(row, form.cleaned_data, request.user)
        obj.__dict__.update(saved.__dict__)  # the admin goes on with its own instance

    def delete_model(self, request: HttpRequest, obj: Category) -> None:
        catalogue.category_delete(category=obj, user=request.user)  # type: ignore[arg-type]

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """What goes with it, and what stands in the way, in words."""
        del request
        blocking = []
        for category in objs:
            items, children = category.items.count(), category.children.count()
            if items or children:
                blocking.append(f"{category.path}: {items:,} items, {children:,} categories")
        return [category.path for category in objs], {"categories": len(objs)}, set(), blocking
