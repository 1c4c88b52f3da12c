"""The verdict on a version: what it measures is what would be served, and it comes out the same again."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from ml.corrector_map import CorrectorMap, ErrorMap
from ml.evaluation.metrics import Ranking, average_precision
from ml.evaluation.two_stage import METRICS
from ml.methods.corrector.bundle import TrunkMap
from ml.retrieval import two_stage
from ml.retrieval.columns import EntryFilter
from ml.retrieval.two_stage import QueryVectors
from searchapp.exceptions import Conflict
from searchapp.models import (
    Deployment,
    Evaluation,
    EvaluationQuery,
    EvaluationSet,
    GalleryEntry,
    GalleryView,
    ItemImage,
    Job,
    JobState,
    ModelVersion,
    Verdict,
)
from searchapp.services import (
    correctors,
    encoding,
    evaluating,
    intake,
    jobs,
    measuring,
    operator_settings,
    search,
    serving,
    verdict_galleries,
    verdicts,
    versions,
)
from searchapp.services.gallery import entries_add, gallery_transaction
from searchapp.services.gallery_columns import read_entries
from searchapp.services.held_out import HeldOut, held_out_fingerprint, held_out_queries
from searchapp.services.media import media_read
from tests.searchapp.stale_shop import hold_out_one_of_each, put_in_use, stale_shop
from tests.searchapp.trainings import candidate, small_shop
from tests.searchapp.turned import rotation, turned_version

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NEW, OLD = "2.0", "1.0"
DEGREES = 60.0


def judged(version: ModelVersion) -> Verdict:
    return verdicts.verdict_make(version, versions.champion().version)


def cell(report: dict[str, Any], version: str, state: str) -> dict[str, Any]:
    wanted = (version, state)
    return next(row for row in report["matrix"] if (row["query_version"], row["gallery_state"]) == wanted)


def gates(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {gate["name"]: gate for gate in report["gates"]}


def naive_map(version: ModelVersion, queries: list[HeldOut], *, corrector_digest: str = "") -> list[float]:
    """Average precision of each query, of the whole ranking the product itself gives while `version` is in use."""
    view = GalleryView.objects.get(version=version, corrector_digest=corrector_digest)
    Deployment.objects.filter(pk=put_in_use(version).pk).update(view=view)
    serving.forget()
    arm = serving.current().champion
    category_of = dict(ItemImage.objects.values_list("item_id", "item__category_id"))
    found = []
    for query in queries:
        encoded = arm.encoder.encode(
            intake.stored_pixels(query.path, input_size=arm.encoder.input_size)[None]
        )
        own = ItemImage.objects.filter(image_sha256=query.image_sha256).values_list("pk", flat=True)
        hits = two_stage.search(
            arm.view,
            QueryVectors(encoded.packed_codes[0], encoded.embeddings[0]),
            k=len(arm.view),
            where=EntryFilter(excluded_image_ids=frozenset(own)),
            calibrations=arm.calibrations,
            group=False,
        ).hits
        right = [
            hit.item_id == query.item_id if query.by_item else category_of[hit.item_id] == query.category_id
            for hit in hits
        ]
        scores = np.array([hit.score for hit in hits], np.float64)
        found.append(average_precision(Ranking(scores, np.array(right))))
    return found


def some_encoded(version: ModelVersion, count: int) -> None:
    """The first `count` photos have an entry by `version` too."""
    ids = ItemImage.objects.order_by("pk").values_list("pk", flat=True)[:count]
    entries = encoding.encode_images(version=version, image_ids=list(ids))
    with gallery_transaction() as changes:
        entries_add(changes, version=version, entries=entries)


def test_a_cell_is_what_the_product_answers_of_a_gallery_of_two_producers(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    some_encoded(version, 25)
    queries = held_out_queries()

    verdict = judged(version)

    mean = float(np.mean(naive_map(version, queries)))
    assert verdict.report["state"] == "stored"
    assert cell(verdict.report, NEW, "stored")["map"] == pytest.approx(mean, abs=1e-6)
    promised = verdicts.promised_cell(verdict)
    assert promised["map"] == pytest.approx(mean, abs=1e-6)
    assert verdicts.cell_measured(version) == promised


def test_the_first_answers_are_those_that_a_search_gives(data_dir: Path, data_packs: Path) -> None:
    version = stale_shop(data_packs, in_use=False)
    asked = EvaluationQuery.objects.values("image_sha256")
    ItemImage.objects.filter(image_sha256__in=asked).delete()  # so that a search need not hide who asks
    report = judged(version).report
    put_in_use(version)
    serving.forget()

    right = []
    for query in held_out_queries():
        first = search.search_by_image(data=media_read(query.path)).results[0]
        right.append(first.item_id == query.item_id)

    assert cell(report, NEW, "stored")["recall_at_1"] == pytest.approx(np.mean(right), abs=1e-6)
    assert np.mean(right) > 0


def test_the_backfilled_cells_are_what_encoding_everything_comes_to_and_write_nothing(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    champion, queries = versions.champion().version, held_out_queries()
    rows = GalleryEntry.objects.count()
    report = judged(version).report
    assert GalleryEntry.objects.count() == rows

    some_encoded(version, rows)

    after = measuring.version_answers(version, queries)
    told = cell(report, NEW, "backfilled")
    assert [told[name] for name in METRICS] == pytest.approx(
        [after[name].mean() for name in METRICS], abs=1e-6
    )
    assert cell(judged(version).report, OLD, "backfilled") == cell(report, OLD, "backfilled")
    assert champion.entries.count() == rows


def test_items_added_under_the_candidate_are_asked_for_where_their_entries_are_its_own(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    told = cell(judged(version).report, NEW, "added_by_candidate")
    queries, photos = held_out_queries(), ItemImage.objects.order_by("pk")
    view = read_entries(version)
    folds = list(verdict_galleries.folds_of(queries, view, verdict_galleries.photos_judged(view, queries)))
    assert sorted(at for fold in folds for at in fold.queries.tolist()) == list(range(len(queries)))
    assert len(folds) == 4

    values = np.full(len(queries), np.nan)
    for fold in folds:
        added = set(view.image_ids[fold.is_added].tolist())
        items = set(photos.filter(pk__in=added).values_list("item_id", flat=True))
        assert items == {queries[at].item_id for at in fold.queries.tolist()}
        assert added == set(photos.filter(item__in=items).values_list("pk", flat=True))
        values[fold.queries] = _with_entries_by(version, added, queries)[fold.queries]

    assert told["map"] == pytest.approx(values.mean(), abs=1e-6)
    assert told["n"] == len(queries)


def _with_entries_by(version: ModelVersion, images: set[int], queries: list[HeldOut]) -> Any:
    """What `version` answers once these photos have entries by it, rolled back after."""
    with transaction.atomic():
        entries = encoding.encode_images(version=version, image_ids=images)
        with gallery_transaction() as changes:
            entries_add(changes, version=version, entries=entries)
        values = measuring.version_answers(version, queries)["map"]
        transaction.set_rollback(True)
    return values


def test_changes_are_differences_on_the_same_queries_with_items_drawn_again_and_again(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    champion, queries = versions.champion().version, held_out_queries()
    report = judged(version).report
    own, old = (measuring.version_answers(one, queries)["map"] for one in (version, champion))

    by_item: dict[int, list[float]] = {}
    for query, difference in zip(queries, own - old, strict=True):
        by_item.setdefault(query.cluster, []).append(difference)
    items = [by_item[item] for item in sorted(by_item)]
    rng, means = np.random.default_rng(0), []
    for start in range(0, 2000, 256):
        for drawn in rng.integers(0, len(items), (min(256, 2000 - start), len(items))):
            together = [difference for item in drawn for difference in items[item]]
            means.append(sum(together) / len(together))
    low, high = np.quantile(means, [0.025, 0.975])

    change = cell(report, NEW, "stored")["change"]["map"]
    assert [change[name] for name in ("value", "low", "high")] == pytest.approx(
        [np.mean(own - old), low, high], abs=1e-6
    )
    loss = gates(report)["map_loss"]
    assert (loss["value"], loss["low"]) == (-change["value"], -change["high"])
    unseen = 1 - 0.05 ** (1 / 12)  # of twelve items, the share that may well have shown none
    assert loss["high"] == pytest.approx(-change["low"] + 0.2 * unseen, abs=2e-6)
    assert cell(report, OLD, "stored")["change"] is None
    back = cell(report, OLD, "added_by_candidate")["change"]["map"]
    assert gates(report)["rollback_loss"]["value"] == -back["value"]


def test_a_version_without_a_common_lineage_is_judged_by_a_gallery_of_its_own(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, classes=3, count=4)
    hold_out_one_of_each()
    version = candidate(encoded=False)

    before = judged(version).report

    assert before["state"] == "backfilled"
    assert [(row["query_version"], row["gallery_state"]) for row in before["matrix"]] == [
        (OLD, "stored"),
        (NEW, "backfilled"),
    ]
    assert list(gates(before)) == ["map_loss", "flips", "worst_category", "latency"]
    encoding.entries_fill(version, heard=lambda _done: None)
    assert judged(version).report["matrix"] == before["matrix"]
    own = measuring.version_answers(version, held_out_queries())
    assert cell(before, NEW, "backfilled")["map"] == pytest.approx(own["map"].mean(), abs=1e-6)


def test_a_large_gallery_is_judged_by_a_sample_that_keeps_what_is_asked_for(
    data_dir: Path, data_packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = stale_shop(data_packs, in_use=False)
    queries = held_out_queries()[:3]
    EvaluationQuery.objects.exclude(image_sha256__in=[query.image_sha256 for query in queries]).delete()
    monkeypatch.setattr(verdict_galleries, "MAX_PHOTOS", 40)

    report = judged(version).report

    assert (report["gallery"]["entries"], report["gallery"]["sampled"]) == (60, 40)
    assert "same sample of 40 of 60 photos" in " ".join(report["notes"])
    assert {row["n"] for row in report["matrix"]} == {3}
    view = read_entries(version)
    photos = verdict_galleries.photos_judged(view, queries, most=40)
    kept = set(photos.facts.image_ids.tolist())
    asked = ItemImage.objects.filter(item__in=[query.item_id for query in queries])
    assert set(asked.values_list("pk", flat=True)) <= kept


def test_a_picture_that_is_gone_has_no_value_and_a_photo_that_is_gone_keeps_its_old_entry(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    queries = held_out_queries()
    (data_dir / "media" / queries[0].path).unlink()  # it asks, and is a photo of the gallery as well

    report = judged(version).report

    assert {row["n"] for row in report["matrix"]} == {len(queries) - 1}
    assert report["queries"] == len(queries)
    assert report["flips"]["queries"] == len(queries) - 1


def test_what_two_versions_cost_is_measured_here_and_priced_by_the_rates_of_now(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    verdict = judged(version)
    costs = verdicts.report_of(verdict)["costs"]
    assert costs["bytes"] == {NEW: 1, OLD: versions.champion().version.size_bytes}
    assert all(0 < times["p50"] <= times["p95"] for times in costs["latency_ms"].values())
    assert (costs["entries"], costs["money"], costs["kwh"]) == (60, None, None)
    assert costs["reencode_seconds"] > 0

    operator_settings.setting_change(name="cost.machine_hour", value=360.0, user=None)
    operator_settings.setting_change(name="cost.watts", value=500.0, user=None)

    priced = verdicts.report_of(verdict)["costs"]
    assert priced["money"] == pytest.approx(priced["reencode_seconds"] / 10, abs=1e-4)
    assert priced["kwh"] == pytest.approx(priced["reencode_seconds"] / 7200, abs=1e-5)


def test_a_verdict_holds_until_the_held_out_photos_or_a_tenth_of_the_gallery_change(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, in_use=False)
    champion = versions.champion().version
    verdict = judged(version)
    assert verdicts.verdict_of(version, champion) == verdict
    assert measuring.gates_of(version, champion) == verdict.report["gates"]
    assert Evaluation.objects.get(version=version).metrics["against"] == OLD
    some_encoded(version, 6)
    assert measuring.gates_of(version, champion, corrector_digest="") is not None
    some_encoded(version, 7)
    assert measuring.gates_of(version, champion, corrector_digest="") is None  # more than a tenth is new

    EvaluationQuery.objects.filter(pk=EvaluationQuery.objects.values("pk")[:1]).delete()

    assert verdicts.verdict_of(version, champion) is None
    assert measuring.gates_of(version, champion) is None


def test_the_command_prints_the_verdict_and_every_digit_but_the_timings_comes_out_again(
    data_dir: Path, data_packs: Path
) -> None:
    stale_shop(data_packs, in_use=False)

    one, two = (printed(), printed())

    for report in (one, two):
        latency = gates(report)["latency"]
        assert latency["threshold"] == 2.0
        assert latency["low"] <= latency["value"] <= latency["high"]
        report["gates"].remove(latency)
        assert report.pop("costs")["entries"] == 60
    assert one == two
    assert set(one) >= {"version", "matrix", "gates", "flips", "per_category"}
    told = {"query_version", "gallery_state", "n"}
    told |= {f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")}
    assert all(told <= set(row) for row in one["matrix"])
    assert {row["gallery_state"] for row in one["matrix"]} == {"stored", "backfilled", "added_by_candidate"}
    assert one["update_gain"] is None  # turned embeddings tell the same of each other: nothing is gained
    assert one["gallery"] == {"entries": 60, "sequence": one["gallery"]["sequence"], "sampled": None}
    assert list(gates(one)) == ["map_loss", "flips", "worst_category", "rollback_loss"]


def printed(*options: str) -> dict[str, Any]:
    """What `manage.py evaluate 2.0` prints."""
    out = StringIO()
    call_command("evaluate", NEW, "--json", "--wait", *options, stdout=out)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_an_evaluation_set_is_asked_alone_and_its_verdict_is_not_the_version_s(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, classes=2, count=3)
    hold_out_one_of_each()
    version = candidate()
    kept = EvaluationSet.objects.create(name="chosen", origin="upload", is_used=False)
    EvaluationQuery.objects.filter(pk=EvaluationQuery.objects.values("pk")[:1]).update(evaluation_set=kept)

    alone = printed("--set", "chosen", "--against", OLD)

    assert (alone["queries"], alone["set"]) == (1, "chosen")
    assert verdicts.verdict_of(version, versions.champion().version) is None
    assert not Evaluation.objects.exists()
    with pytest.raises(CommandError, match="known: chosen") as refused:
        call_command("evaluate", NEW, "--set", "other")
    assert refused.value.returncode == 2
    with pytest.raises(CommandError, match=r"9\.9"):
        call_command("evaluate", "9.9")
    with pytest.raises(CommandError, match="the only version"):
        call_command("evaluate", OLD)


def test_a_set_in_use_is_asked_with_the_others_and_one_that_is_not_is_not(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, classes=3, count=1, encode=False)
    hold_out_one_of_each()
    every = held_out_fingerprint(held_out_queries())
    used = EvaluationSet.objects.create(name="chosen", origin="upload")
    EvaluationQuery.objects.filter(pk=EvaluationQuery.objects.values("pk")[:1]).update(evaluation_set=used)
    assert held_out_fingerprint(held_out_queries()) == every

    EvaluationSet.objects.update(is_used=False)

    assert len(held_out_queries()) == 2
    assert len(held_out_queries(set_name="chosen")) == 1


def test_judging_is_a_job_beside_the_version_in_use_or_the_one_before_it(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, classes=2, count=2)
    version, first = candidate(), versions.champion().version
    job = evaluating.evaluation_start(version=version, user=None)
    assert evaluating.evaluation_start(version=version, user=None) == job

    done = jobs.job_run_here(job)

    assert (done.state, done.error) == (JobState.DONE, "")
    verdict = Verdict.objects.get(pk=(done.result or {})["verdict"])
    assert (verdict.version, verdict.against, verdict.job) == (version, first, Job.objects.get(pk=job.pk))
    with pytest.raises(Conflict, match="beside itself"):
        evaluating.evaluation_start(version=version, against=version, user=None)
    put_in_use(version)
    assert evaluating.compared_with(version) == first
    assert evaluating.compared_with(first) == version


def test_with_a_registered_corrector_the_corrected_gallery_is_what_would_serve(
    data_dir: Path, data_packs: Path
) -> None:
    version = stale_shop(data_packs, degrees=DEGREES, in_use=False)
    digest = turning_back(version, versions.champion().version)

    verdict = judged(version)

    report = verdict.report
    assert (report["state"], report["corrector_digest"]) == ("corrected", digest)
    assert (report["against_corrector_digest"], report["notes"]) == ("", [])
    corrected = cell(report, NEW, "corrected")
    assert corrected["map"] > cell(report, NEW, "stored")["map"]
    assert gates(report)["map_loss"]["value"] == -corrected["change"]["map"]["value"]
    assert verdicts.cell_measured(version, digest) == verdicts.promised_cell(verdict)
    champion = versions.champion().version
    assert verdicts.verdict_of(version, champion, corrector_digest=digest) == verdict
    assert measuring.gates_of(version, champion, corrector_digest="") is None
    raw = verdicts.verdict_make(version, champion, corrector_digest="")
    assert (raw.report["state"], raw.report["corrector_digest"]) == ("stored", "")
    assert verdicts.verdict_of(version, champion, corrector_digest="") == raw
    assert verdicts.verdict_of(version, champion, corrector_digest=digest) == verdict
    served = naive_map(version, held_out_queries(), corrector_digest=digest)
    # Corrected embeddings are rounded to float16, so two that are nearly alike may change places.
    assert corrected["map"] == pytest.approx(np.mean(served), abs=2e-3)


def test_the_version_in_use_is_asked_through_the_corrector_it_serves_by(
    data_dir: Path, data_packs: Path
) -> None:
    champion = stale_shop(data_packs, degrees=DEGREES, in_use=False)
    digest = turning_back(champion, versions.champion().version)
    put_in_use(champion)
    version = turned_version(champion, degrees=0.0)
    raw = judged(version).report
    view = GalleryView.objects.get(version=champion, corrector_digest=digest)
    Deployment.objects.filter(ended_at=None).update(view=view)
    assert measuring.gates_of(version, champion, corrector_digest="") is None

    report = judged(version).report

    assert (raw["against_corrector_digest"], report["against_corrector_digest"]) == ("", digest)
    served, old = verdicts.cell_measured(champion, digest), cell(report, NEW, "stored")
    assert [old[name] for name in METRICS] == [served[name] for name in METRICS]
    assert old["map"] > cell(raw, NEW, "stored")["map"]
    assert cell(report, NEW, "added_by_candidate") != cell(raw, NEW, "added_by_candidate")
    assert gates(report)["map_loss"]["value"] > gates(raw)["map_loss"]["value"]
    assert "2.0 is asked through the corrector it serves by" in " ".join(report["notes"])


def turning_back(version: ModelVersion, older: ModelVersion) -> str:
    """Register for `version` the corrector that turns entries of `older` just as far; its digest."""
    turned = rotation(version.dimension, DEGREES, 0)
    exact = CorrectorMap(
        turned - np.eye(version.dimension, dtype=np.float32), *no_residual(version.dimension)
    )
    errors = ErrorMap(
        *no_residual(version.dimension)[1:3], np.zeros((1, 1), np.float32), np.zeros((), np.float32)
    )
    bundle = correctors.corrector_store(
        target=version.digest, maps={older.digest: TrunkMap(exact, errors)}, given_up={}, fitting={}
    )
    GalleryView.objects.create(version=version, corrector_digest=bundle.digest)
    return bundle.digest


def no_residual(dimension: int) -> tuple[Any, Any, Any, Any]:
    """The offset, and a hidden layer of one that adds nothing."""
    shapes = ((dimension,), (1, dimension), (1,), (dimension, 1))
    offset, inner, inner_offset, outer = (np.zeros(shape, np.float32) for shape in shapes)
    return offset, inner, inner_offset, outer
