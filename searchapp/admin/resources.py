"""Item metadata as CSV, out and in, in the columns of a catalogue CSV; photos come in by an import."""

from typing import Any

from import_export import fields, resources, widgets

from searchapp.models import Category, Item
from searchapp.services import catalogue

COLUMNS = (
    "sku",
    "title",
    "category",
    "description",
    "tags",
    "price",
    "currency",
    "url",
    "address",
    "latitude",
    "longitude",
)
PLAIN = ("title", "description", "price", "currency", "url", "address", "latitude", "longitude")
SEPARATOR = "|"


class CategoryPathWidget(widgets.Widget):  # type: ignore[misc]
    """A category as its path; one that does not exist yet is made."""

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> Category:
        del kwargs
        vertical = (row or {}).get("vertical") or None
        return catalogue.category_ensure(str(value or ""), vertical=vertical)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        del obj, kwargs
        return str(value.path) if value else ""


class ItemResource(resources.ModelResource):  # type: ignore[misc]
    category = fields.Field(column_name="category", attribute="category", widget=CategoryPathWidget())
    tags = fields.Field(column_name="tags")

    class Meta:
        model = Item
        import_id_fields = ("sku",)
        fields = COLUMNS
        export_order = COLUMNS
        skip_unchanged = False
        report_skipped = True
        use_transactions = True

    def dehydrate_tags(self, item: Item) -> str:
        return SEPARATOR.join(item.tags.values_list("name", flat=True))

    def before_save_instance(self, instance: Item, row: Any, **kwargs: Any) -> None:
        instance.changed_by = kwargs.get("user")  # type: ignore[attr-defined]
        tags = row.get("tags")
        instance.tag_names = None if tags is None else str(tags).split(SEPARATOR)  # type: ignore[attr-defined]

    def do_instance_save(self, instance: Item, is_create: bool) -> None:  # noqa: FBT001
        values: Any = {name: getattr(instance, name) for name in PLAIN} | {"category": instance.category}
        tags = instance.tag_names  # type: ignore[attr-defined]
        if is_create:
            instance.pk = catalogue.item_create(sku=instance.sku, tags=tags or [], **values).pk
        else:
            user = instance.changed_by  # type: ignore[attr-defined]
            catalogue.item_update(item=instance, tags=tags, user=user, **values)

    def save_m2m(self, *args: Any, **kwargs: Any) -> None:
        """The service has set the tags already."""
