"""Where the items of categories stand when their names are asked for: in the product's answer, and by code alone.

Run by `benchmarks.learning_quality` in a shop's surroundings, with slugs; prints one JSON object.
"""

import ml.threads  # noqa: F401  isort: skip

import json
import sys
from collections.abc import Collection, Sequence
from typing import Any

import django

django.setup()

from ml.data.words import label_words  # noqa: E402
from ml.protocol import pack_bits  # noqa: E402
from ml.retrieval import code_search  # noqa: E402
from searchapp.models import Category, Item  # noqa: E402
from searchapp.services import search, serving  # noqa: E402
from searchapp.services.search_options import SearchOptions  # noqa: E402
from searchapp.services.serving import Arm  # noqa: E402

SHOWN = 50  # results of the product's answer


def ranks(arm: Arm, category: Category) -> dict[str, Any]:
    """Rank, from 1, of the first item of the category; None where none is found, or no code says anything yet."""
    items = dict(Item.objects.filter(category=category).values_list("pk", "sku"))
    text = label_words(category.name)
    answer = search.search_by_text(text=text, options=SearchOptions(k=SHOWN))
    near: Sequence[int] = ()
    if arm.words is not None:
        packed = pack_bits(arm.words.encode([text]))[0]
        near = [hit.item_id for hit in code_search.search(arm.view, packed, k=Item.objects.count())]
    return {
        "text": text,
        "rank": _first([result.sku for result in answer.results], set(items.values())),
        "code_rank": _first(near, items.keys()),
    }


def _first(found: Sequence[object], wanted: Collection[object]) -> int | None:
    return next((rank for rank, one in enumerate(found, start=1) if one in wanted), None)


def main() -> None:
    arm = serving.follow_once().champion
    slugs = sys.argv[1:]
    print(json.dumps({slug: ranks(arm, Category.objects.get(slug=slug)) for slug in slugs}))


if __name__ == "__main__":
    main()
