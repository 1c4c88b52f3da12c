"""Forms to merge a category into another, to split one, and to delete one with everything in it."""

from collections.abc import Sequence
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from searchapp.admin.base import rehearse
from searchapp.exceptions import SearchAppError
from searchapp.models import Category, Item
from searchapp.services import category_moves
from searchapp.services.categories import NAME_LENGTH, PATH_LENGTH, path_normalised
from searchapp.services.category_contents import items_found


class MoveForm(forms.Form):
    """A form about one category. It is rehearsed before the page that asks for confirmation, and not after."""

    def __init__(self, data: Any, *, category: Category) -> None:
        super().__init__(data)
        self.category = category
        self.is_confirmed = bool(data) and "confirmed" in data

    def refuse(self, error: SearchAppError) -> None:
        for name, problem in error.fields.items():
            self.add_error(name if name in self.fields else None, problem)
        if not error.fields:
            self.add_error(None, error.message)


class MergeForm(MoveForm):
    into = forms.CharField(
        label="Merge into",
        max_length=PATH_LENGTH,
        # Suggestions by the browser itself: no scripts, any number of categories.
        widget=UnfoldAdminTextInputWidget(attrs={"list": "known-categories", "autocomplete": "off"}),
        help_text="begin to type and choose one of the list",
    )

    def clean_into(self) -> Category:
        path = path_normalised(self.cleaned_data["into"])
        found = Category.objects.filter(path=path).first()
        if found is None:
            raise forms.ValidationError(f"There is no category {path[:80]!r}; choose one of the list.")
        return found

    @property
    def hidden(self) -> list[tuple[str, str]]:
        """What the page that asks for confirmation sends again."""
        return [("into", self.cleaned_data["into"].path)]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors and not self.is_confirmed:
            rehearse(
                self, lambda: category_moves.categories_merge(source=self.category, into=cleaned["into"])
            )
        return cleaned


class SplitForm(MoveForm):
    name = forms.CharField(
        label="Name of the new category", max_length=NAME_LENGTH, widget=UnfoldAdminTextInputWidget
    )
    words = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)
    items = forms.ModelMultipleChoiceField(Item.objects.none(), label="Items", required=False)
    all_found = forms.BooleanField(label="All found", required=False, widget=UnfoldBooleanWidget)

    def __init__(self, data: Any, *, category: Category) -> None:
        super().__init__(data, category=category)
        chosen: Any = self.fields["items"]
        chosen.queryset = category.items.all()

    @property
    def chosen(self) -> Sequence[Item]:
        """What leaves: the ticked ones, or all that the words find."""
        if self.cleaned_data["all_found"]:
            return list(items_found(self.category, self.cleaned_data["words"]))
        return list(self.cleaned_data["items"])

    @property
    def hidden(self) -> list[tuple[str, str]]:
        """What the page that asks for confirmation sends again; of all found the words alone, be they thousands."""
        data = self.cleaned_data
        if data["all_found"]:
            return [("name", data["name"]), ("words", data["words"]), ("all_found", "on")]
        return [("name", data["name"]), *(("items", str(item.pk)) for item in data["items"])]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors and not self.is_confirmed:
            rehearse(
                self,
                lambda: category_moves.category_split(
                    category=self.category, items=self.chosen, name=cleaned["name"]
                ),
            )
        return cleaned


class DeleteForm(MoveForm):
    typed_name = forms.CharField(
        label="Type the category's name", required=False, strip=True, widget=UnfoldAdminTextInputWidget
    )
