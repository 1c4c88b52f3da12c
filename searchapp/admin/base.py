"""What the admin classes share: services write the rows, and their refusals stand beside the fields."""

from collections.abc import Callable
from typing import Any, TypeVar

from django import forms
from django.db import transaction
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from searchapp.exceptions import SearchAppError

Shown = TypeVar("Shown", bound=Callable[..., Any])
STATE_LABELS = {"searchable": "success", "pending": "warning", "failed": "danger"}


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    """A list to look at: whoever may view it sees it, nobody changes it here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def rehearse(form: forms.BaseForm, write: Callable[[], object]) -> None:
    """Do it and take it back, so that what the service refuses stands beside the field.

    The write itself happens later, in `save_model`, with the same values.
    """
    try:
        with transaction.atomic():
            write()
            transaction.set_rollback(True)
    except SearchAppError as error:
        for name, problem in error.fields.items():
            form.add_error(name if name in form.fields else None, problem)
        if not error.fields:
            form.add_error(None, error.message)


def column(**options: Any) -> Callable[[Shown], Shown]:
    """unfold's `display`, with its types."""
    decorate: Callable[[Shown], Shown] = display(**options)
    return decorate


def thumbnail(url: str, alt: str, side: int = 56) -> SafeString:
    return format_html(
        '<img src="{}" alt="{}" width="{}" height="{}" loading="lazy" '
        'class="rounded-default object-cover" style="width:{}px;min-width:{}px;height:{}px">',
        url,
        alt,
        *[side] * 5,
    )
