"""Accounts and keys: every change of who may do what leaves an audit event."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from searchapp.admin.base import column
from searchapp.models import ApiKey
from searchapp.services import api_keys, audit

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        super().save_model(request, obj, form, change)
        audit.event_record(
            action="user.change" if change else "user.create",
            actor=request.user,  # type: ignore[arg-type]
            subject=obj.get_username(),
            after={"changed": [name for name in form.changed_data if "password" not in name]},
        )


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    pass


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]
    """A key is made and revoked, never changed; its text is shown once."""

    list_display = ("name", "prefix", "user", "created_at", "is_valid")
    list_select_related = ("user",)
    fields = ("name", "user")
    autocomplete_fields = ("user",)
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @column(description="Valid", boolean=True)
    def is_valid(self, key: ApiKey) -> bool:
        return key.revoked_at is None

    @admin.action(description="Revoke the chosen keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            api_keys.key_revoke(api_key=key)
            audit.event_record(action="key.revoke", actor=request.user, subject=str(key))  # type: ignore[arg-type]
        messages.success(request, "Revoked: the next request with one of them is refused.")

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:  # noqa: FBT001
        row, text = api_keys.key_create(user=obj.user, name=obj.name)
        obj.__dict__.update(row.__dict__)  # the admin goes on with its own instance
        audit.event_record(action="key.create", actor=request.user, subject=str(row))  # type: ignore[arg-type]
        messages.warning(request, f"The key, shown this once: {text}")
