"""Forms of a category: its name and place; and photos in any number, as files or as a zip."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from searchapp.admin.forms import CategoryForm, ManyFilesInput
from searchapp.exceptions import SearchAppError
from searchapp.models import Category
from searchapp.services.category_adding import NamedPhoto, PhotoBatch

ACCEPTED = "image/jpeg,image/png,image/webp"
ONE, EACH = "one", "each"
# What the services call a field, and what a form calls it.
FORM_NAMES = {"tags": "tag_names"}


class UploadsField(forms.FileField):
    """Any number of files, not looked into: the service says what is wrong with which."""

    def clean(self, data: Any, initial: Any = None) -> list["UploadedFile[bytes]"]:
        uploads = data if isinstance(data, list | tuple) else [data] if data else []
        return [upload for upload in uploads if isinstance(upload, UploadedFile)]


class PhotosForm(forms.Form):
    """Photos and what they show."""

    photos = UploadsField(
        label="Photos",
        required=False,
        widget=ManyFilesInput(attrs={"accept": ACCEPTED}),
        help_text="JPEG, PNG or WebP of up to 20 MB each; choose several at once",
    )
    archive = forms.FileField(
        label="Or a zip of photos",
        required=False,
        widget=UnfoldAdminFileFieldWidget(attrs={"accept": ".zip,application/zip"}),
        help_text="every photo in it counts, whatever folder it lies in",
    )
    products = forms.ChoiceField(
        label="What the photos show",
        choices=[(ONE, "All of them show one product"), (EACH, "Each shows a product of its own")],
        initial=ONE,
        required=False,
        widget=UnfoldAdminRadioSelectWidget,
    )
    leave_out = forms.BooleanField(
        label="Go on without the photos that cannot be used",
        required=False,
        widget=UnfoldBooleanWidget,
    )

    def refuse(self, error: SearchAppError) -> None:
        """Put what the service refused beside the fields; what has none stands above them."""
        for field, problem in error.fields.items():
            name = FORM_NAMES.get(field, field)
            self.add_error(name if name in self.fields else None, problem.splitlines())
        if not error.fields:
            self.add_error(None, error.message)

    @property
    def has_unusable_photos(self) -> bool:
        return bool(self.errors.get("photos") or self.errors.get("archive"))

    @contextmanager
    def batch(self) -> Iterator[PhotoBatch]:
        """The uploads as the services take them, of a form that is valid."""
        uploads, archive = self.cleaned_data["photos"], self.cleaned_data["archive"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photos.zip"
            if archive is not None:
                with path.open("wb") as stream:
                    stream.writelines(archive.chunks())
            yield PhotoBatch(
                photos=(NamedPhoto(upload.name or "", upload.read()) for upload in uploads),
                archive=path if archive is not None else None,
                leave_out_unusable=self.cleaned_data["leave_out"],
            )

    @property
    def is_one_item(self) -> bool:
        return bool(self.cleaned_data["products"] != EACH)


class CategoryAddForm(PhotosForm, CategoryForm):
    """Name, place and photos in one step. The service alone decides, when the form is sent."""

    # Not the search box of other forms: this one needs no scripts.
    parent = forms.ModelChoiceField(
        Category.objects.order_by("path"),
        required=False,
        empty_label="None: it stands at the top",
        widget=UnfoldAdminSelectWidget,
    )
    tag_names = forms.CharField(
        label="Tags",
        required=False,
        max_length=5000,
        widget=UnfoldAdminTextInputWidget,
        help_text="words that fit all its products, separated by commas",
    )
    field_order = ("name", "parent", "vertical", "tag_names", "photos", "archive", "products", "leave_out")

    def clean(self) -> dict[str, Any] | None:
        """No rehearsal as of other forms: photos would be decoded twice."""
        return forms.ModelForm.clean(self)

    def arguments(self) -> dict[str, Any]:
        """What `category_add` takes, but for photos and user."""
        data = self.cleaned_data
        return {
            "name": data["name"],
            "parent": data["parent"],
            "vertical": data["vertical"],
            "tags": data["tag_names"].split(","),
            "one_item": self.is_one_item,
        }
