"""Values an operator may change: gate limits, what time and power cost, who is told. Each change keeps its reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from searchapp.exceptions import InvalidInput
from searchapp.models import OperatorSetting
from searchapp.services.audit import event_record

Value = float | bool | str


@dataclass(frozen=True, slots=True)
class Setting:
    """One value: its name, what it is in words, what it is until somebody changes it, and what is allowed."""

    name: str
    label: str
    default: Value
    allowed: str  # in words
    is_allowed: Callable[[Any], bool]
    unit: str = ""
    needs_reason: bool = False


def _between(low: float, high: float) -> Callable[[Any], bool]:
    def is_allowed(value: Any) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and isfinite(value)
            and low <= value <= high
        )

    return is_allowed


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 10


def _is_email(value: Any) -> bool:
    if value == "":
        return True
    try:
        validate_email(value)
    except (ValidationError, TypeError):
        return False
    return True


def _is_webhook(value: Any) -> bool:
    if value == "":
        return True
    if not isinstance(value, str) or len(value) > 500:
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _gate(name: str, label: str, default: float, most: float, unit: str = "") -> Setting:
    return Setting(
        f"gate.{name}", label, default, f"0 to {most:g}", _between(0, most), unit, needs_reason=True
    )


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        _gate("map_loss", "Mean average precision may fall by", 0.01, 0.5),
        _gate("flips", "Answers that turn wrong, of those asked", 0.05, 1),
        _gate("worst_category", "Mean average precision of any one category may fall by", 0.03, 1),
        _gate("latency", "A query may take so many times as long", 2.0, 100, "times"),
        _gate("rollback_loss", "Items added since: mean average precision may fall, going back, by", 0.05, 1),
        _gate("chain_loss", "Mean average precision may fall since the first version of the encoder by", 0.03, 1),
        Setting("cost.machine_hour", "An hour of this machine costs", 0.0, "0 to 1,000", _between(0, 1000)),
        Setting("cost.currency", "Currency", "EUR", "1 to 10 characters", _is_short),
        Setting("cost.watts", "This machine at work draws", 0.0, "0 to 10,000", _between(0, 10_000), "W"),
        Setting("watch.email", "Alerts go by e-mail to", "", "an address, or nothing", _is_email),
        Setting("watch.webhook", "Alerts are posted to", "", "an http(s) address, or nothing", _is_webhook),
        Setting(
            "watch.hours", "Measure the version in use again every", 24.0, "0 (never) to 720", _between(0, 720), "hours"
        ),
        Setting(
            "watch.rollback", "Go back by itself when quality has fallen", default=False, allowed="yes or no",
            is_allowed=_is_switch, needs_reason=True,
        ),
    )
}  # fmt: skip


def setting_value(name: str) -> Any:
    """The newest value of a setting, or its default."""
    newest = OperatorSetting.objects.filter(name=name).values_list("value", flat=True).first()
    return SETTINGS[name].default if newest is None else newest


def setting_values() -> dict[str, Any]:
    """Of all settings, in one query."""
    found = {name: setting.default for name, setting in SETTINGS.items()}
    rows = OperatorSetting.objects.order_by("pk").values_list("name", "value")
    return found | {name: value for name, value in rows if name in found}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a setting, and whether the value it gave is the one there is now."""

    row: OperatorSetting
    before: Value
    is_newest: bool


def setting_changes() -> list[Change]:
    """Every change that was made, newest first."""
    found: list[Change] = []
    now: dict[str, Any] = {}
    rows = list(OperatorSetting.objects.select_related("created_by").order_by("pk"))
    newest = {row.name: row.pk for row in rows}
    for row in rows:
        if row.name in SETTINGS:
            before = now.get(row.name, SETTINGS[row.name].default)
            found.append(Change(row, before, newest[row.name] == row.pk))
            now[row.name] = row.value
    return found[::-1]


def setting_parsed(name: str, text: str) -> Value:
    """What somebody typed as the kind of value the setting has. Raises InvalidInput (fields: the name)."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise _unknown(name)
    text = text.strip()
    if isinstance(setting.default, bool):
        if text not in ("yes", "no"):
            raise _invalid(name, f"it is {text[:60]!r}, allowed: {setting.allowed}")
        return text == "yes"
    if isinstance(setting.default, str):
        return text
    try:
        return float(text)
    except ValueError:
        raise _invalid(name, f"it is {text[:60]!r}, allowed: {setting.allowed}") from None


def setting_change(
    *, name: str, value: Any, user: AbstractBaseUser | None, reason: str = ""
) -> OperatorSetting | None:
    """Keep a new value, with an audit event; None when it is the value there is.

    Raises InvalidInput (fields: the name) for an unknown name, a value that is not allowed, a gate without a reason.
    """
    setting = SETTINGS.get(name)
    if setting is None:
        raise _unknown(name)
    if not setting.is_allowed(value):
        raise _invalid(name, f"it is {value!r:.60}, allowed: {setting.allowed}")
    reason = reason.strip()[:500]
    if setting.needs_reason and not reason:
        raise _invalid("reason", f"“{setting.label}” is changed only with a reason, which is kept")
    with transaction.atomic():
        before = setting_value(name)
        if before == value:
            return None
        row = OperatorSetting.objects.create(
            name=name, value=value, reason=reason, created_by_id=None if user is None else user.pk
        )
        event_record(
            action="setting.change",
            actor=user,
            subject=setting.label,
            before={name: before},
            after={name: value},
            reason=reason,
        )
    return row


def _unknown(name: str) -> InvalidInput:
    return _invalid("name", f"there is no setting {name[:60]!r}; there are {', '.join(SETTINGS)}")


def _invalid(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}.", fields={field: f"{problem}."})
