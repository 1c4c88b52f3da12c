"""Items with their photos: what is searchable, what waits, what failed and why."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from import_export.admin import ImportExportModelAdmin
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.import_export.forms import ExportForm, ImportForm

from searchapp.addresses import alt_of, item_url, thumbnail_url
from searchapp.admin.base import STATE_LABELS, column, thumbnail
from searchapp.admin.forms import ItemForm, item_write
from searchapp.admin.import_page import import_catalogue, import_confirm
from searchapp.admin.resources import ItemResource
from searchapp.models import Item, ItemImage, SearchState
from searchapp.services import catalogue
from searchapp.services.duplicate_pairs import with_undecided
from searchapp.services.photo_details import image_describe


class StateFilter(admin.SimpleListFilter):
    title = "badge"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in SearchState.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Item]) -> QuerySet[Item]:
        by_state: Any = queryset
        return by_state.filter(state=self.value()) if self.value() else queryset


class ImageForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = ItemImage
        fields = ("position", "alt")


class ImageInline(TabularInline):  # type: ignore[misc]
    model = ItemImage
    form = ImageForm
    extra = 0
    fields = ("preview", "badge", "position", "alt", "size", "twins")
    readonly_fields = ("preview", "badge", "size", "twins")
    hide_title = True
    verbose_name_plural = "Photos"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # photos come in by "Add photos", several at once

    def get_queryset(self, request: HttpRequest) -> QuerySet[ItemImage]:
        found: Any = super().get_queryset(request)
        described: QuerySet[ItemImage] = found.with_state().select_related("item").order_by("position", "pk")
        return with_undecided(described)

    @column(description="Photo")
    def preview(self, image: ItemImage) -> str:
        return thumbnail(thumbnail_url(image), alt_of(image, image.item), 96)

    @column(description="State")
    def badge(self, image: Any) -> str:
        if image.state != SearchState.FAILED:
            return str(SearchState(image.state).label)
        retry = reverse("admin:image_retry", args=[image.pk])
        return format_html(
            'Failed: {} <button formaction="{}" formnovalidate class="underline">Retry</button>',
            image.failure,
            retry,
        )

    @column(description="Size")
    def size(self, image: ItemImage) -> str:
        return f"{image.width} x {image.height}, {max(1, image.size_bytes // 1024)} kB"

    @column(description="Looks like")
    def twins(self, image: Any) -> str:
        """Photos of other items that it equals and nobody has decided about yet."""
        newer, older = image.newer_of_pairs.all(), image.older_of_pairs.all()
        items = [pair.old_image.item for pair in newer] + [pair.new_image.item for pair in older]
        if not items:
            return ""
        links = format_html_join(", ", '<a class="underline" href="{}">{}</a>', map(_item_link, items))
        return format_html('{} · <a class="underline" href="{}">Decide</a>', links, reverse("duplicates"))


def _item_link(item: Item) -> tuple[str, str]:
    return reverse("admin:searchapp_item_change", args=[item.pk]), item.title or item.sku


@admin.register(Item)
class ItemAdmin(ModelAdmin, ImportExportModelAdmin):  # type: ignore[misc]
    form = ItemForm
    import_form_class = ImportForm
    export_form_class = ExportForm
    resource_classes: ClassVar[list[type]] = [ItemResource]
    inlines = (ImageInline,)
    list_display = ("photo", "title_and_sku", "category", "badge", "why", "price")
    list_display_links = ("photo", "title_and_sku")
    list_filter = (StateFilter, "category__vertical")
    search_fields = ("sku", "title", "category__path")
    autocomplete_fields = ("category",)
    list_per_page = 50
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("sku", "title", "category", "tag_names", "description", "photos")}),
        ("Price and shop", {"fields": (("price", "currency"), "url"), "classes": ("tab",)}),
        ("Place", {"fields": ("address", ("latitude", "longitude")), "classes": ("tab",)}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("sku",) if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Item]:
        found: Any = super().get_queryset(request)
        images = Prefetch("images", ItemImage.objects.order_by("position", "pk"))
        listed: QuerySet[Item] = found.with_state().select_related("category").prefetch_related(images)
        return listed

    @column(description="Photo")
    def photo(self, item: Item) -> str:
        image = next(iter(item.images.all()), None)
        return thumbnail(thumbnail_url(image), alt_of(image, item)) if image else "none yet"

    @column(description="Item", header=True, ordering="title")
    def title_and_sku(self, item: Item) -> tuple[str, str]:
        return item.title or item.sku, item.sku

    @column(description="Badge", ordering="state", label=STATE_LABELS)
    def badge(self, item: Any) -> tuple[str, str]:
        return item.state, str(SearchState(item.state).label)

    @column(description="Why")
    def why(self, item: Any) -> str:
        failures = [image.failure for image in item.images.all() if image.failure]
        if failures:
            return str(failures[0])
        return "" if item.state == SearchState.SEARCHABLE else self._waiting_for(item)

    @staticmethod
    def _waiting_for(item: Item) -> str:
        return "being encoded" if item.images.all() else "has no photo"

    def get_view_on_site_url(self, obj: Any = None) -> str | None:
        return item_url(obj.sku) if obj else None

    def save_model(self, request: HttpRequest, obj: Item, form: Any, change: bool) -> None:  # noqa: FBT001
        row = Item.objects.get(pk=obj.pk) if change else Item()
        saved = item_write(row, form.cleaned_data, request.user)
        obj.__dict__.update(saved.__dict__)  # the admin goes on with its own instance
        for photo in form.cleaned_data["photos"]:
            catalogue.image_add(item=saved, data=photo.read(), filename=photo.name, user=request.user)  # type: ignore[arg-type]

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:  # noqa: FBT001
        formset.save(commit=False)
        for image in formset.deleted_objects:
            catalogue.image_delete(image=image, user=request.user)  # type: ignore[arg-type]
        for image, _ in formset.changed_objects:
            image_describe(image=image, alt=image.alt, position=image.position)

    def delete_model(self, request: HttpRequest, obj: Item) -> None:
        catalogue.item_delete(item=obj, user=request.user)  # type: ignore[arg-type]

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Item]) -> None:
        catalogue.items_delete(items=queryset, user=request.user)  # type: ignore[arg-type]

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """In words: an item takes its photos and their entries along, nothing stands in the way."""
        del request
        photos = ItemImage.objects.filter(item__in=[item.pk for item in objs]).count()
        return [f"{item} ({item.sku})" for item in objs], {"items": len(objs), "photos": photos}, set(), []

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        own = [
            path("import-catalogue/", view(self._import_catalogue), name="import_catalogue"),
            path("import-catalogue/<uuid:job_id>/", view(self._import_confirm), name="import_confirm"),
            path("photos/<int:image_id>/retry/", view(self._image_retry), name="image_retry"),
        ]
        return own + list(super().get_urls())

    def _import_catalogue(self, request: HttpRequest) -> HttpResponse:
        return import_catalogue(request, self)

    def _import_confirm(self, request: HttpRequest, job_id: Any) -> HttpResponse:
        return import_confirm(request, self, job_id)

    def _image_retry(self, request: HttpRequest, image_id: int) -> HttpResponse:
        image = ItemImage.objects.filter(pk=image_id).first()
        if request.method == "POST" and image and self.has_change_permission(request):
            catalogue.image_retry(image=image, user=request.user)  # type: ignore[arg-type]
            messages.success(request, "The photo waits to be encoded again.")
        if image is None:
            return HttpResponseRedirect(reverse("admin:searchapp_item_changelist"))
        return HttpResponseRedirect(reverse("admin:searchapp_item_change", args=[image.item_id]))
