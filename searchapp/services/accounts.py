"""Accounts of the demonstration: one for catalogue staff, one for an operator, with passwords shown once."""

import secrets
from dataclasses import dataclass

from django.contrib.auth.models import Group, Permission, User
from django.db import transaction

OPERATORS = "operators"
CATALOGUE_STAFF = "catalogue staff"
STAFF_WRITES = ("category", "item", "itemimage", "tag")
STAFF_READS = ("job", "evaluationquery", "feedback", "query")
OPERATOR_READS = ("modelversion", "deployment", "evaluation", "galleryview", "auditevent")


@dataclass(frozen=True, slots=True)
class NewAccount:
    name: str
    password: str


@transaction.atomic
def demo_accounts_ensure() -> list[NewAccount]:
    """Make `staff` and `operator` where they are missing; only what is new has a password to show."""
    staff_group = _group_ensure(CATALOGUE_STAFF, writes=STAFF_WRITES, reads=STAFF_READS)
    operator_group = _group_ensure(OPERATORS, writes=(), reads=OPERATOR_READS)
    made = []
    for name, groups in (("staff", [staff_group]), ("operator", [staff_group, operator_group])):
        if User.objects.filter(username=name).exists():
            continue
        password = secrets.token_urlsafe(12)
        user = User.objects.create_user(name, password=password, is_staff=True)
        user.groups.set(groups)
        made.append(NewAccount(name, password))
    return made


def _group_ensure(name: str, *, writes: tuple[str, ...], reads: tuple[str, ...]) -> Group:
    group, _ = Group.objects.get_or_create(name=name)
    wanted = [f"{verb}_{model}" for model in writes for verb in ("add", "change", "delete", "view")]
    wanted += [f"view_{model}" for model in reads]
    group.permissions.add(
        *Permission.objects.filter(content_type__app_label="searchapp", codename__in=wanted)
    )
    return group
