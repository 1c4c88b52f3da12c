"""What a request to the search page asks for: read from form or address, and written back as an address."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict
from django.urls import reverse

from searchapp.exceptions import InvalidInput
from searchapp.services.intake import Crop
from searchapp.services.search_options import SearchOptions

FILTERS = ("category", "vertical", "tag", "price_min", "price_max")
CROP_FIELDS = ("crop_x", "crop_y", "crop_w", "crop_h")
WHOLE = (0.0, 0.0, 100.0, 100.0)
MAX_FIELD = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """The question as typed, not yet checked: `crop` in percent of the photo, filters as text."""

    words: str = ""
    sku: str = ""
    sample: str = ""
    photo: str = ""
    crop: tuple[float, float, float, float] = WHOLE
    filters: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        if self.photo:
            return "photo"
        if self.sample:
            return "sample"
        if self.sku:
            return "item"
        return "text" if self.words else "none"

    @property
    def shown_crop(self) -> Crop | None:
        """The crop in shares, None for the whole photo. Raises InvalidInput when it leaves the photo."""
        return None if self.crop == WHOLE else Crop(*(round(value / 100, 6) for value in self.crop))

    def values(self, field: str) -> list[str]:
        return [value for name, value in self.filters if name == field]

    def value(self, field: str) -> str:
        return next(iter(self.values(field)), "")

    def options(self) -> SearchOptions:
        """Raises InvalidInput naming every field that is wrong."""
        chosen: dict[str, Any] = {field: self.value(field) for field in FILTERS}
        return SearchOptions.parse({**chosen, "tag": self.values("tag")})

    def address(self) -> str:
        """The address that asks this again; of a photo only the name that its tab knows it by."""
        subject = {"photo": self.photo, "sample": self.sample, "sku": self.sku, "q": self.words}
        crop = "" if self.crop == WHOLE else ",".join(f"{value / 100:g}" for value in self.crop)
        pairs = [*subject.items(), ("crop", crop), *self.filters]
        query = urlencode([(name, value) for name, value in pairs if value])
        return reverse("start") + (f"?{query}" if query else "")

    def without(self, field: str, value: str) -> "Asked":
        return replace(self, filters=tuple(pair for pair in self.filters if pair != (field, value)))


def asked_in(data: QueryDict) -> Asked:
    """Read form or address. Empty fields count as unset; NUL and over-long text never reach a service."""
    clean = {name: [_clean(value) for value in data.getlist(name)] for name in data}
    one = {name: values[-1] for name, values in clean.items() if values}
    filters = tuple(
        dict.fromkeys((name, value) for name in FILTERS for value in clean.get(name, []) if value)
    )
    asked = Asked(
        words=one.get("q", "")[:300],
        sku=one.get("sku", "")[:120],
        sample=one.get("sample", "") if one.get("sample", "").isdecimal() else "",
        photo="".join(letter for letter in one.get("photo", "") if letter.isalnum())[:20],
        crop=_crop(one),
        filters=filters,
    )
    field, _, value = one.get("drop", "").partition(":")
    return asked.without(field, value) if field else asked


def _clean(value: str) -> str:
    return value.replace("\x00", "").strip()[:MAX_FIELD]


def _crop(one: Mapping[str, str]) -> tuple[float, float, float, float]:
    if one.get("crop_to") == "whole":
        return WHOLE
    if one.get("crop") and not any(one.get(name) for name in CROP_FIELDS):
        shares = Crop.parse(one["crop"])
        crop = (shares.x * 100, shares.y * 100, shares.w * 100, shares.h * 100)
    else:
        crop = tuple(_percent(one, name, default) for name, default in zip(CROP_FIELDS, WHOLE))  # type: ignore[assignment]
    if one.get("crop_to") == "tighter":
        x, y, w, h = crop
        crop = (x + w * 0.1, y + h * 0.1, w * 0.8, h * 0.8)
    x, y, w, h = (round(value, 2) for value in crop)
    return x, y, w, h


def _percent(one: Mapping[str, str], name: str, default: float) -> float:
    text = one.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        message = f"A crop edge is {text[:20]!r}; a number from 0 to 100 is allowed."
        raise InvalidInput(message, fields={"crop": message})
    return value
