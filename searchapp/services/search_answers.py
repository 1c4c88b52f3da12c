"""An answer as people and programs get it: ranked hits joined with their rows, each able to say why it is there."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings

from ml.retrieval.code_search import CodeHit
from ml.retrieval.scoring import Hit, Strength
from searchapp.models import Category, GalleryEntry, Item, ItemImage, stored_path, thumbnail_path
from searchapp.services.explanations import Explanation
from searchapp.services.reasons import (
    Agreement,
    Reason,
    by_picture,
    by_picture_and_words,
    by_what_it_shows,
    by_words,
)
from searchapp.services.serving import Arm
from searchapp.services.word_search import RefinedHit, WordMatch

STAGES = ("intake", "encode", "shortlist", "rerank", "rows", "total")
EXPLAIN_STAGE = "explain"  # in the times only when an explanation was asked for


@dataclass(frozen=True, slots=True)
class Result:
    """One item. With a picture, `score` is the calibrated probability of relevance; with words alone, how much of the
    question is met (services.word_search), and hamming, producer and provenance are None unless it was found without
    any of the words, by its code. `plain`: why, in sentences for everybody."""

    item_id: int
    sku: str
    title: str
    category: str
    image: str | None
    thumbnail: str | None
    score: float
    strength: Strength
    hamming: int | None
    producer: str | None
    provenance: str | None
    why: Mapping[str, Any]
    plain: tuple[str, ...]
    facts: "Facts" = field(repr=False, compare=False)

    @property
    def row(self) -> Item:
        """The item as a page shows it, without description; for reading, never for saving."""
        facts = self.facts
        category = Category(pk=facts.category_id, slug=facts.slug, path=facts.path, vertical=facts.vertical)
        return Item(
            pk=facts.item_id, sku=facts.sku, title=facts.title, category=category, price=facts.price,
            currency=facts.currency, url=facts.url, address=facts.address, latitude=facts.latitude,
            longitude=facts.longitude,
        )  # fmt: skip

    @property
    def photo(self) -> ItemImage | None:
        """The photo that was found (with words alone, the item's first); for reading."""
        facts = self.facts
        if facts.image_id is None:
            return None
        return ItemImage(
            pk=facts.image_id, item_id=facts.item_id, image_sha256=facts.image_sha256, extension=facts.extension,
            width=facts.width, height=facts.height, colour=facts.colour, alt=facts.alt,
        )  # fmt: skip

    def as_dict(self, *, role_is_anonymous: bool) -> dict[str, Any]:
        return {
            "sku": self.sku,
            "title": self.title,
            "category": self.category,
            "image": self.image,
            "thumbnail": self.thumbnail,
            "score": round(self.score, 2 if role_is_anonymous else 6),
            "strength": self.strength,
            "hamming": self.hamming,
            "producer": self.producer,
            "provenance": self.provenance,
            "why": dict(self.why),
        }


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What was found, by which version, in what gallery, and how long each stage took.

    `kind`, `text`, `filters`, `arm` and `deployment_id` say what was asked of what; they are for the query log and the
    pages.
    """

    query_id: UUID
    kind: str
    text: str
    filters: Mapping[str, Any]
    arm: str
    deployment_id: int
    model_version: str
    entries: int
    entries_by_version: Mapping[str, int]
    took_ms: Mapping[str, float]
    results: tuple[Result, ...]
    explanation: Explanation | None = None

    @property
    def strong_count(self) -> int:
        return sum(result.strength == "strong" for result in self.results)

    def as_dict(self, *, role_is_anonymous: bool) -> dict[str, Any]:
        """The JSON of the contract. Anonymous callers see scores rounded to two digits."""
        is_explained = EXPLAIN_STAGE in self.took_ms
        stages = (*STAGES, EXPLAIN_STAGE) if is_explained else STAGES
        answer: dict[str, Any] = {
            "query_id": str(self.query_id),
            "model_version": self.model_version,
            "gallery": {"entries": self.entries, "versions": dict(self.entries_by_version)},
            "took_ms": {stage: round(self.took_ms[stage], 3) for stage in stages},
            "results": [result.as_dict(role_is_anonymous=role_is_anonymous) for result in self.results],
        }
        if is_explained:
            explanation = self.explanation
            answer["explanation"] = explanation and explanation.as_dict(role_is_anonymous=role_is_anonymous)
        return answer


def visual_results(hits: Sequence[Hit], arm: Arm, *, tags_of: Item | None = None) -> tuple[Result, ...]:
    """Hits joined with their rows, in two queries however many there are; one whose row is gone is dropped.

    Why.tags: those shared with the item that was asked about (`tags_of`), else those shared with the best match, when
    that is a strong one.
    """
    rows = _facts_of_entries([hit.entry_id for hit in hits])
    present = [hit for hit in hits if hit.entry_id in rows]
    asked = [] if tags_of is None else [tags_of.pk]
    tags = _tags_of_items([*(hit.item_id for hit in present), *asked])
    best = present[0].item_id if present and present[0].strength == "strong" else 0
    reference = tags_of.pk if tags_of else best
    return tuple(
        _result(
            rows[hit.entry_id],
            hit.score,
            hit.strength,
            by_picture(_agreement(hit, arm), _shared(tags, hit.item_id, reference)),
            hit,
        )
        for hit in present
    )


def refined_results(kept: Sequence[RefinedHit], arm: Arm, *, asked: str) -> tuple[Result, ...]:
    """What looks alike and answers the words `asked`, joined with its rows in one query."""
    rows = _facts_of_entries([one.hit.entry_id for one in kept])
    results = []
    for hit, words in ((one.hit, one.words) for one in kept if one.hit.entry_id in rows):
        reason = by_picture_and_words(_agreement(hit, arm), words, asked)
        results.append(_result(rows[hit.entry_id], hit.score, hit.strength, reason, hit))
    return tuple(results)


def text_results(matches: Sequence[WordMatch], arm: Arm, *, asked: str) -> tuple[Result, ...]:
    """Matches joined with their rows in three queries however many there are: with the photo that was found, or, by
    words, with the item's first."""
    shown = {match.item_id: match.near for match in matches if match.near is not None and not match.words}
    by_entry = _facts_of_entries([hit.entry_id for hit in shown.values()]) if shown else {}
    by_item = _facts_of_items([match.item_id for match in matches if match.item_id not in shown])
    results = []
    for match in matches:
        hit = shown.get(match.item_id)
        facts = by_item.get(match.item_id) if hit is None else by_entry.get(hit.entry_id)
        if facts is not None:  # a row that is gone meanwhile is dropped
            reason = by_words(match.words) if hit is None else by_what_it_shows(_agreement(hit, arm), asked)
            results.append(_result(facts, match.score, match.strength, reason, hit))
    return tuple(results)


def _agreement(hit: Hit | CodeHit, arm: Arm) -> Agreement:
    return Agreement(arm.version.code_bits - hit.hamming, arm.version.code_bits, hit.producer)


def _result(
    facts: "Facts", score: float, strength: Strength, reason: Reason, hit: Hit | CodeHit | None
) -> Result:
    has_photo = facts.image_id is not None
    return Result(
        item_id=facts.item_id,
        sku=facts.sku,
        title=facts.title,
        category=facts.path,
        image=settings.MEDIA_URL + stored_path(facts.image_sha256, facts.extension) if has_photo else None,
        thumbnail=settings.MEDIA_URL + thumbnail_path(facts.image_sha256) if has_photo else None,
        score=score,
        strength=strength,
        hamming=hit.hamming if hit else None,
        producer=hit.producer if hit else None,
        provenance=facts.provenance if hit else None,
        why=reason.why,
        plain=reason.plain,
        facts=facts,
    )


class Facts(NamedTuple):
    """What an answer tells of an item and one of its photos, as read from the rows."""

    item_id: int
    sku: str
    title: str
    price: Decimal | None
    currency: str
    url: str
    address: str
    latitude: float | None
    longitude: float | None
    category_id: int
    path: str
    slug: str
    vertical: str
    image_id: int | None = None
    image_sha256: str = ""
    extension: str = ""
    width: int = 0
    height: int = 0
    colour: str = ""
    alt: str = ""
    provenance: str | None = None


_ITEM = ("pk", "sku", "title", "price", "currency", "url", "address", "latitude", "longitude", "category_id")
_CATEGORY = ("category__path", "category__slug", "category__vertical")
_PHOTO = ("pk", "image_sha256", "extension", "width", "height", "colour", "alt")
_OF_ENTRY = (
    *(f"image__item__{name}" for name in (*_ITEM, *_CATEGORY)),
    *(f"image__{name}" for name in _PHOTO),
    "provenance",
)


def _facts_of_entries(entry_ids: Sequence[int]) -> dict[int, Facts]:
    """Entry id -> facts, in one query. Plain values: building model objects would take twice as long."""
    rows = GalleryEntry.objects.filter(pk__in=entry_ids).values_list("pk", *_OF_ENTRY)
    return {row[0]: Facts(*row[1:]) for row in rows}


def _facts_of_items(item_ids: Sequence[int]) -> dict[int, Facts]:
    """Item id -> facts with the item's first photo, in two queries."""
    photos: dict[int, tuple[Any, ...]] = {}
    images = ItemImage.objects.filter(item__in=item_ids).order_by("item_id", "position", "pk")
    for item_id, *photo in images.values_list("item_id", *_PHOTO):
        photos.setdefault(item_id, tuple(photo))
    items = Item.objects.filter(pk__in=item_ids).order_by().values_list(*_ITEM, *_CATEGORY)
    return {row[0]: Facts(*row, *photos.get(row[0], ())) for row in items}


def _tags_of_items(item_ids: Iterable[int]) -> dict[int, list[str]]:
    tags: dict[int, list[str]] = defaultdict(list)
    through = Item.tags.through.objects.filter(item_id__in=list(item_ids)).order_by("tag__name")
    for item_id, name in through.values_list("item_id", "tag__name"):
        tags[item_id].append(name)
    return tags


def _shared(tags: Mapping[int, list[str]], item_id: int, reference: int) -> list[str]:
    wanted = set(tags.get(reference, ()))
    return [name for name in tags.get(item_id, ()) if name in wanted]
