"""Categories as a tree of paths."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from searchapp.admin.base import column
from searchapp.admin.forms import CategoryForm, category_write
from searchapp.models import PATH_SEPARATOR, Category
from searchapp.services import catalogue


@admin.register(Category)
class CategoryAdmin(ModelAdmin):  # type: ignore[misc]
    form = CategoryForm
    list_display = ("tree_path", "vertical", "item_count", "slug")
    list_filter = ("vertical",)
    search_fields = ("path", "slug")
    autocomplete_fields = ("parent",)
    ordering = ("path",)
    list_per_page = 100
    actions = None  # categories are deleted one by one: each must be empty

    def get_queryset(self, request: HttpRequest) -> QuerySet[Category]:
        found: QuerySet[Category] = super().get_queryset(request)
        return found.annotate(items_inside=Count("items"))

    @column(description="Category", ordering="path")
    def tree_path(self, category: Category) -> str:
        return "\u2003" * category.path.count(PATH_SEPARATOR) + category.name

    @column(description="Items", ordering="items_inside")
    def item_count(self, category: Any) -> int:
        return int(category.items_inside)

    def save_model(self, request: HttpRequest, obj: Category, form: Any, change: bool) -> None:  # noqa: FBT001
        saved = category_write(Category.objects.get(pk=obj.pk) if change else Category(), form.cleaned_data)
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
