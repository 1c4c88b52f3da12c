"""What words find: the database's text search alone, codes alone, both, and the product's own answer.

Run as `python -m benchmarks.words [--quick]`; writes docs/results/bench_words.json (not with --quick).
"""

from benchmarks.words_shop import (  # isort: skip  sets Django up
    Shop,
    Stock,
    given_all_words,
    label_queries,
    read_stock,
    stocked,
    taught,
)

import argparse
import json
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from django.conf import settings
from django.core.management import call_command
from numpy.typing import NDArray

from benchmarks.gallery_data import machine
from ml.artifacts import load_bundle
from ml.evaluation.intervals import paired_interval
from ml.evaluation.metrics import Ranking, average_precision
from ml.protocol import pack_bits
from ml.retrieval import code_search
from ml.text_encoder import TextWeights
from searchapp.models import Item
from searchapp.services import search, serving, text_search, versions, word_search
from searchapp.services.search_options import SearchOptions, scope_of
from searchapp.services.word_search import SaidCode, WordMatch

RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench_words.json"
SEED = 0
QUICK_EVERY = 10
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # beyond a half, an item without the words could pass one with all
FIRST = 10
SHOWN = 24
BANDS = (0.6, 0.7, 0.8, 0.9, 1.01)
STRANGERS = 200
FOREIGN = (  # things that such shops sell or show, in a dozen languages
    "Handschuh Regenschirm Erdbeere Kartoffel Gurke Zwiebel Treppe Aufzug chaussures pomme citrouille escalier "
    "ascenseur parapluie zapatos manzana cebolla pepino escalera paraguas falda klänning äpple gurka trappa paraply "
    "byxor kengät omena sipuli portaat hissi sateenvarjo ботинки платье яблоко огурец лестница зонт рубашка りんご 傘 "
    "階段 玉ねぎ 鞋子 苹果 楼梯 사과 신발 우산 تفاح حذاء مظلة सेब जूता छाता elma ayakkabı şemsiye"
)
ABOUT = (
    "Words of labels (categories and tags that 2 items or more and at most 60 % of them carry) ask for items of the "
    "sample catalogue; codes are the shipped version's, an item counts by its nearest photo. A text head is taught as "
    "the product does, from texts and sums of stored codes. `database`: share of the words that an item holds, the "
    "database's rank among equals. `codes`: code similarity alone. `fused`: (1 - w) share + w (1 + similarity) / 2, w "
    "chosen by mAP on every second query, all rows reported on the others. `product`: its own answer to the end: "
    "unknown words are not asked of the code, and few items without any of the words are shown. Equal scores count in "
    "expectation. Recall@10: relevant items among the first ten, of ten or of as many as there are. `as stored`: an "
    "item is found by title, description, category and tags, and all were taught. `half silent`: half of the items "
    "can be found by title and description alone, and were never taught; relevant are those. `lacking`: the same "
    "where only such count whose own words have none of the query's (the others are taken out)."
)

Scores = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Asked:
    """One query over the M items on sale: columns (M,)."""

    text: str
    share: Scores  # of the words, 0 to 1
    rank: Scores  # higher is earlier in the database's answer, 0: not in it
    similarity: Scores  # -1 to 1
    product: Scores  # higher is earlier in the product's answer, 0: not in it
    answer: tuple[tuple[int, WordMatch], ...]  # its first SHOWN, with their columns
    relevant: NDArray[np.bool_]
    kept: NDArray[np.bool_]  # the others are not in the gallery


def asked(shop: Shop, arm: serving.Arm, text: str, carriers: Rows) -> Asked:
    """carriers: rows of the stock; all of them are relevant."""
    rows = np.array(sorted(shop.item_ids), np.int64)
    place = {shop.item_ids[row]: position for position, row in enumerate(rows.tolist())}
    words, everything = text_search.query_words(text), len(rows)
    share, rank, similarity, product = (np.zeros(everything) for _ in range(4))
    written = text_search.items_matching(words=words, among=Item.objects.all(), limit=everything)
    for position, match in enumerate(written):
        share[place[match.item_id]] = match.score
        rank[place[match.item_id]] = everything - position
    for item_id, hit in code_search.hits_of_items(arm.view, _code(arm, words), place).items():
        similarity[place[item_id]] = 1 - 2 * hit.hamming / arm.view.code_bits
    answer = _answer(arm, text, everything)
    for position, found in enumerate(answer):
        product[place[found.item_id]] = everything - position
    first = tuple((place[found.item_id], found) for found in answer[:SHOWN])
    relevant = np.isin(rows, carriers)
    return Asked(text, share, rank, similarity, product, first, relevant, np.ones(everything, np.bool_))


def narrowed(questions: Sequence[Asked], counts: Callable[[Asked], NDArray[np.bool_]]) -> list[Asked]:
    """Relevant are those that `counts` says; the others are taken out of the gallery, and queries without any too."""
    found = []
    for one in questions:
        relevant = one.relevant & counts(one)
        if relevant.any():
            found.append(replace(one, relevant=relevant, kept=relevant | ~one.relevant))
    return found


def _code(arm: serving.Arm, words: Sequence[str]) -> NDArray[np.uint8]:
    if arm.words is None:
        raise SystemExit("this version knows no words")
    code: NDArray[np.uint8] = pack_bits(arm.words.encode([" ".join(words)]))[0]
    return code


def _answer(arm: serving.Arm, text: str, limit: int) -> list[WordMatch]:
    words = text_search.query_words(text)
    code = word_search.code_of(arm, words)
    return word_search.items_matching(words=words, code=code, scope=scope_of(SearchOptions()), limit=limit)


def fused(one: Asked, weight: float) -> Scores:
    """Equals in the order of the database, as in the product."""
    scores = (1 - weight) * one.share + weight * (1 + one.similarity) / 2
    return scores + 1e-9 * one.rank


def quality(questions: Sequence[Asked], score: Callable[[Asked], Scores]) -> tuple[Scores, Scores]:
    """Per query: average precision, and Recall@10."""
    precisions, recalls = [], []
    for one in questions:
        ids = np.flatnonzero(one.kept)
        values, labels = score(one)[ids], one.relevant[ids].astype(np.int64)
        ranking = Ranking.of(values, labels, ids, label=1)
        precisions.append(average_precision(ranking))
        recalls.append(_first_found(ranking))
    return np.array(precisions), np.array(recalls)


def _first_found(ranking: Ranking) -> float:
    """Recall@10, places within equal scores drawn by chance: its expectation."""
    found, start = 0.0, 0
    ends = np.flatnonzero(np.append(np.diff(ranking.scores) != 0, [True])) + 1
    for end in ends.tolist():
        found += ranking.relevant[start:end].mean() * (min(end, FIRST) - start)
        if end >= FIRST:
            break
        start = end
    return float(found / min(FIRST, ranking.relevant.sum()))


def compared(setting: str, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """A row per way to answer, on the half of the queries that chose nothing."""
    choosing, reported = questions[::2], questions[1::2]
    means = [quality(choosing, partial(fused, weight=weight))[0].mean() for weight in WEIGHTS]
    weight = WEIGHTS[int(np.argmax(means))]
    ways: dict[str, Callable[[Asked], Scores]] = {
        "database": lambda one: one.share + 1e-6 * one.rank,
        "codes": lambda one: one.similarity,
        f"fused, {weight} chosen": partial(fused, weight=weight),
        f"fused, {word_search.CODE_WEIGHT}": partial(fused, weight=word_search.CODE_WEIGHT),
        "product": lambda one: one.product,
    }
    rows = []
    numbers = np.arange(len(reported))
    baseline = quality(reported, ways["database"])[0]
    for name, score in ways.items():
        precision, recall = quality(reported, score)
        more = paired_interval(precision, baseline, numbers, seed=SEED)
        rows.append(
            {
                "items": setting, "answered by": name, "queries": len(reported), "mAP": float(precision.mean()),
                "mAP more than database": None if name == "database" else [more.low, more.high],
                f"Recall@{FIRST}": float(recall.mean()),
            }
        )  # fmt: skip
    return rows


def unsaid(setting: str, questions: Sequence[Asked]) -> list[dict[str, Any]]:
    """Of what the product shows among its first that has none of the words: how often it is what was meant."""
    rows = []
    for low, high in pairwise(BANDS):
        right = [
            bool(one.relevant[place])
            for one in questions
            for place, match in one.answer
            if not match.words and one.kept[place] and low <= one.similarity[place] < high
        ]
        share = float(np.mean(right)) if right else None
        rows.append({"items": setting, "code similarity from": low, "shown": len(right), "right": share})
    return rows


def strangers(arm: serving.Arm, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
    """What is shown for words that nobody said of anything."""
    rng = np.random.default_rng(SEED)
    letters = list(string.ascii_lowercase)
    chance = ["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(STRANGERS)]
    half = [f"{rng.choice(vocabulary)} {word}" for word in chance]
    rows = []
    for kind, texts in {
        "random letters": chance, "other languages": FOREIGN.split(), "a known word and random letters": half,
    }.items():  # fmt: skip
        ways: dict[str, Callable[[str], list[WordMatch]]] = {
            "database": lambda text: _answer(replace(arm, words=None), text, SHOWN),
            "every word asked of the code": lambda text: _answer_of_any_word(arm, text),
            "product": lambda text: _answer(arm, text, SHOWN),
        }
        for way, answer in ways.items():
            found = [{match.strength for match in answer(text)} for text in texts]
            shares = {
                strength: float(np.mean([strength in one for one in found]))
                for strength in ("strong", "fair", "weak")
            }
            rows.append({"asked": kind, "answered by": way, "queries": len(texts), **shares})
    return rows


def _answer_of_any_word(arm: serving.Arm, text: str) -> list[WordMatch]:
    """As the product would without its rule for unknown words."""
    words = text_search.query_words(text)
    code = SaidCode(text, arm.view, _code(arm, words))
    return word_search.items_matching(words=words, code=code, scope=scope_of(SearchOptions()), limit=SHOWN)


def speed(arm: serving.Arm, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Whole text searches in process, rows included, the two ways in turn."""
    took: dict[str, list[float]] = {"database": [], "product": []}
    arms = {"database": replace(arm, words=None), "product": arm}
    for text in texts:
        for name, chosen in arms.items():
            with patch.object(serving, "arm_for", return_value=chosen):
                search.search_by_text(text=text)  # once for the caches
                started = time.process_time()  # other work on the machine does not count
                search.search_by_text(text=text)
                took[name].append(1000 * (time.process_time() - started))
    return [
        {
            "answered by": name,
            "queries": len(texts),
            "entries": len(arm.view),
            "p50 processor ms": float(np.median(times)),
            "p95 processor ms": float(np.quantile(times, 0.95)),
        }
        for name, times in took.items()
    ]


def measured(stock: Stock, *, tell: Callable[[str], None]) -> dict[str, Any]:
    """All tables. Items of an odd half are silent first; then every item says all, and all are taught."""
    bundle = load_bundle(settings.DEFAULT_BUNDLE)
    shop = Shop(stock, versions.default_version_ensure())
    order = np.random.default_rng(SEED).permutation(len(stock.records))
    speaking, silent = np.sort(order[::2]), np.sort(order[1::2])
    stocked(shop, speaking.tolist(), has_all_words=True)
    heard = taught(shop, bundle, seed=SEED)
    stocked(shop, silent.tolist(), has_all_words=False)
    tell(f"{len(shop.item_ids)} items; half of them taught")
    queries = label_queries(stock, sorted(shop.item_ids))
    arm = _arm(heard)
    halved = [asked(shop, arm, text, carriers) for text, carriers in queries.items()]
    tell(f"{len(halved)} queries asked")
    is_silent = np.isin(np.arange(len(stock.records)), silent)
    given_all_words()
    arm = _arm(taught(shop, bundle, seed=SEED))
    settings_of = {
        "as stored": [asked(shop, arm, text, carriers) for text, carriers in queries.items()],
        "half silent": narrowed(halved, lambda _: is_silent),
        "lacking": narrowed(halved, lambda one: is_silent & (one.share == 0)),
    }
    tell("and once more, of items that say all")
    compare = [row for setting, questions in settings_of.items() for row in compared(setting, questions)]
    shown = [row for setting, questions in settings_of.items() for row in unsaid(setting, questions)]
    return {
        "tables": [
            {"title": "Words asking for items", "rows": compare},
            {
                "title": "Shown without any of the words",
                "note": f"Among the first {SHOWN} of the product's answer.",
                "rows": shown,
            },
            {
                "title": "Words that nobody said",
                "note": f"Share of queries among whose first {SHOWN} answers is one of that strength.",
                "rows": strangers(arm, list(queries)),
            },
            {"title": "Processor time of a text search, rows included", "rows": speed(arm, list(queries))},
        ]
    }


def _arm(words: TextWeights) -> serving.Arm:
    return replace(serving.follow_once().champion, words=words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the items; writes nothing")
    options = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True)

    call_command("migrate", verbosity=0)
    bundle = load_bundle(settings.DEFAULT_BUNDLE)
    stock = read_stock(bundle, every=QUICK_EVERY if options.quick else 1)
    tell(f"{len(stock.owners)} photos encoded")
    content = measured(stock, tell=tell)
    result = {
        "title": "Words and codes",
        "about": ABOUT,
        "command": "python -m benchmarks.words",
        "seed": SEED,
        "machine": {
            **machine(),
            "bundle": bundle.digest[:12],
            "data": stock.fingerprint[:12],
            "seconds": round(time.perf_counter() - started, 1),
        },
        **content,
    }
    print(json.dumps(result["tables"], indent=1))
    if not options.quick:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
