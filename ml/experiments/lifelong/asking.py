"""What the claims C6a to C6g ask of the rows."""

from collections.abc import Iterable

import numpy as np

from ml.experiments.claims import BOOTSTRAP_SEED, Question, Side
from ml.experiments.evidence import Evidence
from ml.experiments.lifelong.arms import CLAIMED_SEEDS, SHIPPED
from ml.experiments.lifelong.growth import growth_questions
from ml.experiments.lifelong.timing import LENGTHS, WITHIN, cheapest_full
from ml.experiments.lifelong.words_runs import words_questions
from ml.experiments.statistics import resampled_difference

CLAIMED = ("grocery", "union")  # other chains check plausibility
OLD_LOSS, OLD_LOSS_AT_THE_END = 0.01, 0.02
MANY_STEPS = 10
SHORTEST_FULL = 60.0  # seconds of full retraining below which a ratio of times says little


def claims_of(evidence: Evidence) -> list[Question]:
    """In the order of their ids."""
    settings = [
        setting
        for setting in dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == SHIPPED)
        if setting.startswith(CLAIMED)
    ]
    chains = [question for setting in settings for question in _of_chain(setting, evidence)]
    asked = [*chains, *_of_time(evidence), *growth_questions(evidence), *words_questions(evidence)]
    return sorted(asked, key=lambda question: question.id)


def _of_chain(setting: str, evidence: Evidence) -> Iterable[Question]:
    yield Question(
        id="C6a", cell=setting, statistic="old_codes_changed", setting=setting, a=Side(SHIPPED, "old_codes_changed"),
        target="value <= 0", min_seeds=CLAIMED_SEEDS,
        note="by digest; an update is given sums of stored codes, never the codes",
    )  # fmt: skip
    metrics = {str(key) for row in evidence.rows if row["setting"] == setting for key in row}
    steps = sorted(int(key.rsplit("_", 1)[1]) for key in metrics if key.startswith("old_map_after_"))
    for step in steps:
        sides = (f"old_map_before_{step}", f"old_map_after_{step}")
        yield _old_loss(evidence, setting, f"increment {step}", sides, OLD_LOSS)
    if len(steps) == MANY_STEPS:
        sides = ("base_map_before", "base_map_after")
        yield _old_loss(
            evidence, setting, f"base queries after {MANY_STEPS} increments", sides, OLD_LOSS_AT_THE_END
        )
    for kind, limit in (("all", -0.01), ("new", -0.03)):
        yield Question(
            id="C6c", cell=f"{setting}, {kind} queries", statistic="map_minus_full_retrain", setting=setting,
            a=Side(SHIPPED, f"map_{kind}"), b=Side("full retraining", f"map_{kind}"), target=f"value >= {limit}",
            min_seeds=CLAIMED_SEEDS,
        )  # fmt: skip
    for step in steps:
        if f"fused_new_after_{step}" in metrics:
            yield Question(
                id="C6f", cell=f"{setting}, increment {step}", statistic="new_class_gain", setting=setting,
                family="C6f", a=Side(SHIPPED, f"fused_new_after_{step}"), b=Side(SHIPPED, f"fused_new_before_{step}"),
                target="low > 0", min_seeds=CLAIMED_SEEDS,
            )  # fmt: skip


def _old_loss(evidence: Evidence, setting: str, when: str, sides: tuple[str, str], limit: float) -> Question:
    """The target allows two standard errors where that is more than `limit`, per increment alone."""
    before, after = sides
    error = _standard_error(evidence, setting, before, after)
    allowed = max(limit, 2 * error) if limit == OLD_LOSS else limit
    return Question(
        id="C6b", cell=f"{setting}, {when}", statistic="old_query_map_loss", setting=setting, a=Side(SHIPPED, before),
        b=Side(SHIPPED, after), target=f"value <= {np.floor(allowed * 1e4) / 1e4}", min_seeds=CLAIMED_SEEDS,
    )  # fmt: skip


def _standard_error(evidence: Evidence, setting: str, before: str, after: str) -> float:
    sides = [evidence.queries(setting=setting, name=SHIPPED, metric=metric) for metric in (before, after)]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    values = [np.stack([side[seed] for seed in seeds]) for side in sides]
    drawn = resampled_difference(values[0], values[1], evidence.tables[setting].items, seed=BOOTSTRAP_SEED)
    return float(drawn.draws.std())


def _of_time(evidence: Evidence) -> Iterable[Question]:
    """Against the cheapest full retraining within a point of the best on validation photos."""
    for setting in dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == "timing"):
        rounds = cheapest_full(evidence, setting)
        measured = evidence.values(setting=setting, name="timing", metric=f"full_{rounds}_seconds")
        seconds = np.mean(list(measured.values()))
        quality = [
            np.mean(list(evidence.values(setting=setting, name="timing", metric=f"{name}_map").values()))
            for name in ("feature_gaussian", f"full_{rounds}")
        ]
        short = (
            "" if seconds >= SHORTEST_FULL else f", below the {SHORTEST_FULL:.0f} s that make a ratio telling"
        )
        yield Question(
            id="C6d", cell=f"{setting}, full retraining of {rounds} of {LENGTHS} rounds", statistic="update_time_ratio",
            setting=setting, a=Side("timing", "feature_gaussian_seconds"), b=Side("timing", f"full_{rounds}_seconds"),
            compare="ratio", target="value <= 0.2", min_seeds=3,
            note=f"full retraining took {seconds:.0f} s{short}; the shortest within {WITHIN:g} mAP of the best; mAP of "
            f"test photos {quality[1]:.3f}, of the update {quality[0]:.3f}",
        )  # fmt: skip
