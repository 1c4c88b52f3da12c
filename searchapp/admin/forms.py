"""Forms of the admin: photos in any number at once, tags as words, a whole catalogue as a file."""

from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminTextInputWidget,
    UnfoldAdminURLInputWidget,
    UnfoldBooleanSwitchWidget,
)

from searchapp.admin.base import rehearse
from searchapp.exceptions import SearchAppError
from searchapp.models import Category, Item
from searchapp.services import catalogue, intake

ITEM_FIELDS = (
    "title",
    "category",
    "description",
    "price",
    "currency",
    "url",
    "address",
    "latitude",
    "longitude",
)


class ManyFilesInput(UnfoldAdminFileFieldWidget):  # type: ignore[misc]
    allow_multiple_selected = True


class PhotosField(forms.FileField):
    """Any number of photos; each is looked at before anything is saved."""

    widget = ManyFilesInput

    def clean(self, data: Any, initial: Any = None) -> list["UploadedFile[bytes]"]:
        uploads = data if isinstance(data, list | tuple) else [data] if data else []
        photos = [super(PhotosField, self).clean(upload, initial) for upload in uploads]
        problems = []
        for photo in photos:
            try:
                intake.image_clean(photo.read())
            except SearchAppError as error:
                problems.append(f"{photo.name}: {error.message}")
            photo.seek(0)
        if problems:
            raise forms.ValidationError(problems)
        return photos


class CategoryForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Category
        fields = ("name", "parent", "vertical")

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors:
            rehearse(self, lambda: category_write(self.instance, self.cleaned_data))
        return cleaned

    def _post_clean(self) -> None:
        """The service decides; the model's own constraints would only repeat it in other words."""


class ItemForm(forms.ModelForm):  # type: ignore[type-arg]
    tag_names = forms.CharField(
        label="Tags",
        required=False,
        max_length=5000,
        widget=UnfoldAdminTextInputWidget,
        help_text="separated by commas",
    )
    url = forms.URLField(
        label="Address in the shop",
        required=False,
        max_length=500,
        assume_scheme="https",
        widget=UnfoldAdminURLInputWidget,
    )
    photos = PhotosField(
        label="Add photos",
        required=False,
        help_text="JPEG, PNG or WebP of up to 20 MB each; choose several at once",
    )

    class Meta:
        model = Item
        fields = ("sku", *ITEM_FIELDS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            names = self.instance.tags.values_list("name", flat=True)
            self.fields["tag_names"].initial = ", ".join(names)

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors:
            rehearse(self, lambda: item_write(self.instance, self.cleaned_data))
        return cleaned

    def _post_clean(self) -> None:
        """As above: `rehearse` has asked the service."""


class ImportForm(forms.Form):
    file = forms.FileField(
        label="Zip or CSV",
        widget=UnfoldAdminFileFieldWidget,
        help_text="a zip of photos with a CSV, of class folders or of a data pack; or a CSV alone",
    )
    trial = forms.BooleanField(
        label="Trial run first",
        required=False,
        initial=True,
        widget=UnfoldBooleanSwitchWidget,
        help_text="checks every line and photo and shows what would happen; nothing is written",
    )


def category_write(category: Category, data: dict[str, Any], user: Any = None) -> Category:
    """Create or change a category as the form says."""
    if category.pk is None:
        return catalogue.category_create(name=data["name"], parent=data["parent"], vertical=data["vertical"])
    return catalogue.category_update(
        category=category,
        name=data["name"],
        parent=data["parent"],
        vertical=data["vertical"],
        user=user,
    )


def item_write(item: Item, data: dict[str, Any], user: Any = None) -> Item:
    """Create or change an item as the form says; its photos come afterwards."""
    fields: Any = {name: data[name] for name in ITEM_FIELDS if name in data}
    tags = data["tag_names"].split(",")
    if item.pk is None:
        return catalogue.item_create(sku=data["sku"], tags=tags, **fields)
    return catalogue.item_update(item=item, tags=tags, user=user, **fields)
