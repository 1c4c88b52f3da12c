"""What a pack's columns say of a photo: the categories of the sample catalogue, its tags, and its words."""

import re

from ml.data.packs import PackRecord
from ml.experiments.data.parts import Described

# The columns above the leaf, root first, and what marks their values: a group and a class may share a name.
ABOVE_CLASS = {"group": "group", "coarse_class": "coarse"}
ABOVE_PLACE = {"class": "class"}
SHORT_FORM = re.compile(r"[a-z]\d+")  # "f10", "c032": a floor or a clip, abbreviated in a place's name


def described_record(record: PackRecord, leaf: str) -> Described:
    """`leaf` is the class name; a product's is its category, as two products never are each other's ancestors.

    A tag that says what a category says is left out, whatever its capitals and hyphens.
    """
    above = ABOVE_PLACE if "place_id" in record.columns else ABOVE_CLASS
    found = {title: record.columns[column] for column, title in above.items() if record.columns.get(column)}
    told = {_plain(value) for value in (*found.values(), leaf.removeprefix(f"{record.pack}:"))}
    return Described(
        categories=(*(f"{record.pack}:{title}:{value}" for title, value in found.items()), leaf),
        tags=tuple(tag for tag in record.tags if _plain(tag) not in told),
        text=_text(record),
        contributor=record.columns.get("sender_id", ""),
    )


def described_class(name: str, label: str) -> Described:
    """An image of which the class alone is known. name: as in `Dataset.classes`; label: in words."""
    return Described(categories=(name,), tags=(), text=label)


def _text(record: PackRecord) -> str:
    columns = record.columns
    if "place_id" in columns:
        return _place_words(columns["class"], columns["place_id"], columns.get("area", ""))
    title, description = columns.get("title", ""), columns.get("description", "")
    return ". ".join(part for part in (title or record.category or "", description) if part)


def _place_words(floor: str, place: str, area: str) -> str:
    """floor10, floor10/f10_classrom_main, classroom -> "floor 10 classrom main classroom"."""
    named = place.rpartition("/")[2].split("_")
    words = [word for word in named if not SHORT_FORM.fullmatch(word)]
    words += [word for word in area.split("_") if word and word not in words]
    return " ".join([*re.findall(r"\d+|\D+", floor), *words])


def _plain(words: str) -> str:
    return re.sub(r"[\s_-]+", " ", words).strip().casefold()
