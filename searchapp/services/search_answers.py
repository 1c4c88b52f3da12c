"""An answer as people and programs get it: ranked hits joined with their rows, each able to say why it is there."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from ml.retrieval.scoring import Hit, Strength
from searchapp.models import GalleryEntry, Item, ItemImage
from searchapp.services.serving import Arm
from searchapp.services.text_search import TextMatch

STAGES = ("intake", "encode", "shortlist", "rerank", "rows", "total")
STAGE_VISUAL = (
    "Found by its picture: {bits} of {total} code bits agree, then ranked by code and embedding together."
)
STAGE_TEXT = "Found by its words: {matched}."
STAGE_REFINED = "Among what looks most alike ({bits} of {total} code bits agree), its words match: {matched}."


@dataclass(frozen=True, slots=True)
class Result:
    """One item. With a picture, `score` is the calibrated probability of relevance; with words alone, the share of
    the query's words the item holds (services.text_search), and hamming, producer and provenance are None."""

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
    row: Item = field(repr=False, compare=False)
    photo: ItemImage | None = field(repr=False, compare=False)

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

    `kind`, `text`, `filters` and `arm` say what was asked; they are for the query log and the pages.
    """

    query_id: UUID
    kind: str
    text: str
    filters: Mapping[str, Any]
    arm: str
    model_version: str
    entries: int
    entries_by_version: Mapping[str, int]
    took_ms: Mapping[str, float]
    results: tuple[Result, ...]

    @property
    def strong_count(self) -> int:
        return sum(result.strength == "strong" for result in self.results)

    def as_dict(self, *, role_is_anonymous: bool) -> dict[str, Any]:
        """The JSON of the contract. Anonymous callers see scores rounded to two digits."""
        return {
            "query_id": str(self.query_id),
            "model_version": self.model_version,
            "gallery": {"entries": self.entries, "versions": dict(self.entries_by_version)},
            "took_ms": {stage: round(self.took_ms[stage], 3) for stage in STAGES},
            "results": [result.as_dict(role_is_anonymous=role_is_anonymous) for result in self.results],
        }


def visual_results(
    hits: Sequence[Hit],
    arm: Arm,
    *,
    words_of: Mapping[int, tuple[str, ...]] | None = None,
    tags_of: Item | None = None,
) -> tuple[Result, ...]:
    """Hits joined with their rows, in two queries however many there are; one whose row is gone is dropped.

    Why.tags: the words that matched (`words_of`, item id -> words), else the tags shared with the item that was
    asked about (`tags_of`), else those shared with the best match, when that is a strong one.
    """
    rows = {row.pk: row for row in _entries([hit.entry_id for hit in hits])}
    present = [hit for hit in hits if hit.entry_id in rows]
    asked = [] if tags_of is None else [tags_of.pk]
    tags = _tags_of_items([*(hit.item_id for hit in present), *asked])
    reference = (
        tags_of.pk if tags_of else (present[0].item_id if present and present[0].strength == "strong" else 0)
    )
    results = []
    for hit in present:
        entry = rows[hit.entry_id]
        bits = arm.version.code_bits - hit.hamming
        words = words_of[hit.item_id] if words_of is not None else None
        sentence = STAGE_VISUAL if words is None else STAGE_REFINED
        why = {
            "stage": sentence.format(bits=bits, total=arm.version.code_bits, matched=", ".join(words or ())),
            "agreeing_bits": bits,
            "code_bits": arm.version.code_bits,
            "tags": list(words) if words is not None else _shared(tags, hit.item_id, reference),
            "producer": hit.producer,
        }
        results.append(
            _result(
                entry.image.item,
                entry.image,
                hit.score,
                hit.strength,
                why,
                (hit.hamming, hit.producer, entry.provenance),
            )
        )
    return tuple(results)


def _entries(entry_ids: Sequence[int]) -> QuerySet[GalleryEntry]:
    """Entries with photo, item and category in one query, without what only the view needs."""
    found = GalleryEntry.objects.filter(pk__in=entry_ids).select_related("image__item__category")
    return found.defer("code", "embedding", "image__item__search_text")


def text_results(matches: Sequence[TextMatch]) -> tuple[Result, ...]:
    """Text matches joined with their rows and first photos, in two queries however many there are."""
    items = Item.objects.filter(pk__in=[match.item_id for match in matches]).select_related("category")
    rows = {item.pk: item for item in items.prefetch_related("images")}
    results = []
    for match in matches:
        item = rows.get(match.item_id)
        if item is None:
            continue
        photo = next(iter(item.images.all()), None)
        why = {"stage": STAGE_TEXT.format(matched=", ".join(match.words)), "tags": list(match.words)}
        results.append(_result(item, photo, match.score, match.strength, why, (None, None, None)))
    return tuple(results)


def _result(
    item: Item,
    photo: ItemImage | None,
    score: float,
    strength: Strength,
    why: Mapping[str, Any],
    entry: tuple[int | None, str | None, str | None],
) -> Result:
    return Result(
        item_id=item.pk,
        sku=item.sku,
        title=item.title,
        category=item.category.path,
        image=f"{settings.MEDIA_URL}{photo.path}" if photo else None,
        thumbnail=f"{settings.MEDIA_URL}{photo.thumbnail}" if photo else None,
        score=score,
        strength=strength,
        hamming=entry[0],
        producer=entry[1],
        provenance=None if entry[2] is None else str(entry[2]),
        why=why,
        row=item,
        photo=photo,
    )


def _tags_of_items(item_ids: Iterable[int]) -> dict[int, list[str]]:
    tags: dict[int, list[str]] = defaultdict(list)
    through = Item.tags.through.objects.filter(item_id__in=list(item_ids)).order_by("tag__name")
    for item_id, name in through.values_list("item_id", "tag__name"):
        tags[item_id].append(name)
    return tags


def _shared(tags: Mapping[int, list[str]], item_id: int, reference: int) -> list[str]:
    wanted = set(tags.get(reference, ()))
    return [name for name in tags.get(item_id, ()) if name in wanted]
