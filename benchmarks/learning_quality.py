"""What learning new categories is worth: by picture and by words, before and after, by the product's own commands.

Run as `python -m benchmarks.learning_quality [packs] [singles] [--stock DIR]`; writes docs/results/bench_learning.json.
"""

import ml.threads  # noqa: F401  isort: skip

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gallery_data import machine
from benchmarks.learning_shop import DATA, PACKS, RESULTS, STOCK, Shop, fingerprints, shop, tables_write

RESULT = RESULTS / "bench_learning.json"
SEED = 0  # the product's own: it has no other
INCREMENTS = {**{pack: (pack,) for pack in PACKS}, "all three": PACKS}
METRICS = {"map": "mAP", "recall_at_1": "Recall@1", "recall_at_10": "Recall@10", "mrr": "MRR"}
ABOUT = (
    "A shop with the sample catalogue learns the reserved classes, which no shipped weights have seen: "
    "`import_catalogue PACK --include-reserved`, then `learn_categories --wait --json`, each increment from the same "
    "shop. Held-out photos are asked two-stage and calibrated, as the shop answers: before, the version in use and the "
    "new photos as it encoded them; after, the new version. `learn_categories` says all of these figures itself. "
    "Intervals are 95 % bootstraps; the gain is paired by query. `over items` draws items with all their photos: what "
    "holds of other items too. `over queries` draws photos: what holds of other photos of these items. The seed is the "
    "product's only one, so the spread is shown over packs and over increments of one class each."
)
WORDS_NOTE = (
    "The name of each new category is asked for as a shopper would type it. `rank`: of its first item in the product's "
    "answer (50 results); an item's own title and category are words too, so the name finds it before any learning. "
    "`by code alone`: its first item's rank among all items by the code of the words and nothing else; the "
    "version that the shop began with has learned no words."
)
SINGLES_NOTE = (
    "Each class learned by itself, the other reserved ones of its pack stored and waiting: what they lose to it is "
    "among the change of old mAP. Its queries are photos of few items (one of a grocery class or a place), so the "
    "gain's interval is over queries."
)


def learned(one: Shop, *arguments: str) -> dict[str, Any]:
    result: dict[str, Any] = one.json("learn_categories", "--wait", *arguments)
    return result


def imported(one: Shop, packs: Iterable[str]) -> None:
    for pack in packs:
        one.json("import_catalogue", str(DATA / pack), "--include-reserved")


def waiting(one: Shop) -> list[str]:
    code = (
        "import ml.threads, django; django.setup()\n"
        "from searchapp.services.learning import has_photos, version_in_use, waiting_categories\n"
        "print(*waiting_categories(version_in_use()).filter(has_photos()).values_list('slug', flat=True))"
    )
    return one.python("-c", code).split()


def ranked(one: Shop, slugs: Iterable[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(one.python("-m", "benchmarks.learning_words", *slugs))
    return found


def packs_measured(one: Shop, increments: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Tables over increments of a whole pack's reserved classes, and of all packs' together."""
    photos, proof, words = [], [], []
    for name, packs in increments.items():
        with one.put_back():
            imported(one, packs)
            slugs = waiting(one)
            before = ranked(one, slugs)
            result = learned(one)
            after = ranked(one, slugs)
        print(json.dumps({"increment": name, **result}), flush=True)
        photos += [row for kind in ("new", "old") for row in photo_rows(name, kind, result)]
        proof.append(proof_row(name, result))
        words.append(words_row(name, before, after))
    return [
        {"title": "Photos of new and of old categories, before and after", "rows": photos},
        {"title": "Proof and time of these increments", "rows": proof},
        {"title": "New categories by their names", "note": WORDS_NOTE, "rows": words},
    ]


def photo_rows(name: str, kind: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = result[f"{kind}_queries"]
    return [
        {
            "increment": name, "queries_of": f"{kind} categories", "measure": label,
            "photos": found["n"], "items": found["items"],
            "before": found[f"{metric}_before"], "after": found[f"{metric}_after"],
            "after,_over_items": bounds(found, f"{metric}_after"),
            "gain": found[f"{metric}_gain"],
            "gain,_over_items": bounds(found, f"{metric}_gain"),
            "gain,_over_queries": bounds(found, f"{metric}_gain_by_query"),
        }
        for metric, label in METRICS.items()
    ]  # fmt: skip


def bounds(found: Mapping[str, Any], key: str) -> list[float]:
    return [found[f"{key}_low"], found[f"{key}_high"]]


def proof_row(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "increment": name,
        "categories": len(result["categories"]),
        "photos": result["photos"],
        "old_codes_checked": result["old_codes_checked"],
        "changed": result["old_codes_changed"],
        "digest_before": result["old_digest_before"][:12],
        "digest_after": result["old_digest_after"][:12],
        "seconds": result["seconds"],
        "training_seconds": result["training_seconds"],
        **{gate["name"]: gate["verdict"].replace("_", " ") for gate in result["gates"]},
    }


def words_row(
    name: str, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"increment": name, "names": len(after)}
    for when, found in (("before", before), ("after", after)):
        for key, label in (("rank", "product"), ("code_rank", "by_code_alone")):
            known = [one[key] for one in found.values() if one[key] is not None]
            row[f"{label},_first,_{when}"] = sum(rank == 1 for rank in known)
            row[f"{label},_in_10,_{when}"] = sum(rank <= 10 for rank in known)
            row[f"{label},_median_rank,_{when}"] = float(median(known)) if known else None
    return row


def singles_measured(one: Shop, packs: Iterable[str]) -> list[dict[str, Any]]:
    """Tables over increments of one class each."""
    rows = []
    for pack in packs:
        with one.put_back():
            imported(one, [pack])
            for slug in waiting(one):
                with one.put_back():
                    rows.append({"pack": pack, "class": slug, **single(one, slug)})
                print(json.dumps(rows[-1]), flush=True)
    return [
        {"title": "One class at a time: spread", "rows": spread(rows)},
        {"title": "One class at a time", "note": SINGLES_NOTE, "rows": rows},
    ]


def single(one: Shop, slug: str) -> dict[str, Any]:
    """One that is refused says so; nothing was changed then."""
    try:
        result = learned(one, "--category", slug)
    except RuntimeError as error:
        return {"published": False, "why_not": str(error).partition("CommandError: ")[2].strip()[:200]}
    new, old = result["new_queries"], result["old_queries"]
    row: dict[str, Any] = {"published": True, "photos_learned": result["photos"], "queries": new["n"]}
    if new["n"]:
        for metric in ("map", "recall_at_1"):
            row |= {f"{metric}_{when}": new[f"{metric}_{when}"] for when in ("before", "after", "gain")}
            row[f"{metric}_gain_interval"] = bounds(new, f"{metric}_gain_by_query")
    return row | {
        "old_map_gain": old["map_gain"],
        "old_map_gain_over_items": bounds(old, "map_gain"),
        "seconds": result["seconds"],
    }


def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for pack in dict.fromkeys(row["pack"] for row in rows):
        own = [row for row in rows if row["pack"] == pack and row.get("queries")]
        for key in ("recall_at_1_gain", "map_gain", "old_map_gain"):
            gains = sorted(row[key] for row in own)
            found.append(
                {
                    "pack": pack, "classes": len(own), "measure": key.replace("_", " "),
                    "lowest": gains[0], "median": float(median(gains)), "highest": gains[-1],
                    "up": sum(gain > 0 for gain in gains), "down": sum(gain < 0 for gain in gains),
                    "refused": sum(row["pack"] == pack and not row["published"] for row in rows),
                }
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_quality", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="packs, singles; both by default")
    parser.add_argument("--stock", type=Path, default=STOCK, metavar="DIR", help="made when missing")
    parser.add_argument("--singles", nargs="*", default=list(PACKS), choices=PACKS, metavar="PACK")
    parser.add_argument("--quick", action="store_true", help="the grocery increment alone; writes no result")
    options = parser.parse_args()
    parts = ["packs"] if options.quick else options.parts or ["packs", "singles"]
    increments = {"grocery": ("grocery",)} if options.quick else INCREMENTS
    with shop(options.stock) as one:
        tables = packs_measured(one, increments) if "packs" in parts else []
        tables += singles_measured(one, options.singles) if "singles" in parts else []
    head = {
        "title": "New categories learned while the shop is open",
        "about": ABOUT,
        "command": "python -m benchmarks.learning_quality",
        "seed": SEED,
        "machine": {**machine(), "load": os.getloadavg()[0], "data": ", ".join(fingerprints().values())},
    }
    if not options.quick:
        tables_write(RESULT, head, tables)


if __name__ == "__main__":
    main()
