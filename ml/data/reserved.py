"""The classes shipped weights never see: some reserved for journeys and tests, some to choose thresholds."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.data.packs import Pack

RESERVED_FILE = Path(__file__).with_name("reserved.json")
RULE = (
    "Reserved: eligible ids in order of SHA-256('<pack>:<id>'), ascending. grocery: the first 12 classes. "
    "clothing: the first 2 classes with at least 100 images. places_indoor: 20 place_ids with query "
    "frames; catalog: 24 product_ids with at least 2 images and none in the test split; in both, taken in "
    "rounds over the categories (ordered by the hash of their first eligible id), one id per category and "
    "round, at most a third of a category's eligible ids. Validation (part of the sample catalogue, never "
    "trained on by 1.0): random.Random(0).sample over the sorted eligible ids that are not reserved "
    "(clothing: only classes of at most 400 images, so that training keeps the large ones), packs in the "
    "order grocery (6), clothing (1), places_indoor (8), one generator."
)


@dataclass(frozen=True, slots=True)
class ReservedClasses:
    """Label ids by pack name. `reserved` is not in the sample catalogue; `validation` is, but untrained."""

    reserved: Mapping[str, frozenset[str]]
    validation: Mapping[str, frozenset[str]]

    def is_reserved(self, pack: str, label: str | None) -> bool:
        """True when the sample catalogue and the shipped weights must never see this label."""
        return label in self.reserved.get(pack, frozenset())

    def is_validation(self, pack: str, label: str | None) -> bool:
        """True when the label is in the catalogue but 1.0 was not trained on it."""
        return label in self.validation.get(pack, frozenset())

    def is_trainable(self, pack: str, label: str | None) -> bool:
        """True when version 1.0 may train on this label."""
        return label is not None and not self.is_reserved(pack, label) and not self.is_validation(pack, label)


def load_reserved(path: Path = RESERVED_FILE) -> ReservedClasses:
    """Read the committed list. Raises ValueError when the file has another shape."""
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        return ReservedClasses(
            reserved={pack: frozenset(ids) for pack, ids in content["reserved"].items()},
            validation={pack: frozenset(ids) for pack, ids in content["validation"].items()},
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: expected {{reserved: {{pack: [id]}}, validation: {{pack: [id]}}}}: {error}"
        ) from error


def hash_order(pack: str, ids: Iterable[str]) -> list[str]:
    """`ids` sorted by SHA-256 of "<pack>:<id>", ascending."""
    return sorted(ids, key=lambda label: hashlib.sha256(f"{pack}:{label}".encode()).hexdigest())


def first_in_rounds(pack: str, category_of: Mapping[str, str], count: int) -> list[str]:
    """The first `count` ids in rounds over categories, at most a third of each category's ids (see RULE)."""
    queues: dict[str, list[str]] = defaultdict(list)
    for label in hash_order(pack, category_of):
        queues[category_of[label]].append(label)
    quota = {category: ids[: len(ids) // 3] for category, ids in queues.items()}
    chosen: list[str] = []
    for turn in range(max(map(len, quota.values()))):
        chosen += [ids[turn] for ids in quota.values() if len(ids) > turn]
    return chosen[:count]


def eligible_ids(pack: Pack) -> dict[str, str]:
    """Label id -> category of every label of a pack that the rule may reserve."""
    category_of: dict[str, str] = {}
    splits: dict[str, list[str]] = defaultdict(list)
    for record in pack.records():
        if record.label is not None and record.category is not None:
            category_of[record.label] = record.category
            splits[record.label].append(record.split)
    match pack.label_column:
        case "place_id":
            keep = {label for label, found in splits.items() if "query" in found}
        case "product_id":
            keep = {label for label, found in splits.items() if len(found) >= 2 and "test" not in found}
        case _:
            keep = {label for label, found in splits.items() if pack.name != "clothing" or len(found) >= 100}
    return {label: category for label, category in category_of.items() if label in keep}
