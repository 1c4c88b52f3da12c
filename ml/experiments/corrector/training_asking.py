"""What the claims C11a to C11c ask of the fine-tunings."""

from collections.abc import Iterator

from ml.experiments.claims import Question, Side
from ml.experiments.corrector.training_arms import OURS, PERIODIC, SEEDS
from ml.experiments.evidence import Evidence

LARGE = 60_000  # items of a catalogue that claims are about


def training_questions(evidence: Evidence) -> list[Question]:
    """C11 of every large catalogue, in the order of the rows."""
    return [question for setting in large_settings(evidence) for question in _of(setting)]


def large_settings(evidence: Evidence) -> list[str]:
    """Settings whose catalogue is large enough for claims."""
    return list(
        dict.fromkeys(
            str(row["setting"])
            for row in evidence.rows
            if row["name"] == OURS and str(row["setting"]).startswith("training/") and row["items"] >= LARGE
        )
    )


def _of(setting: str) -> Iterator[Question]:
    place = setting.removeprefix("training/")
    for cell, metric in (("encoded anew", "recall_at_1"), ("corrected, no image opened", "recall_at_1_view")):
        yield Question(
            id="C11a", cell=f"{place}, catalogue {cell}", statistic="recall_over_reembedding", setting=setting,
            a=Side(OURS, metric), b=Side(PERIODIC, "recall_at_1"), compare="ratio", target="value >= 0.98",
            min_seeds=SEEDS,
        )  # fmt: skip
    yield Question(
        id="C11b", cell=place, statistic="encode_ratio", setting=setting,
        a=Side(PERIODIC, "extra_encodes"), b=Side(OURS, "extra_encodes"), compare="ratio", target="value >= 20",
        min_seeds=SEEDS,
    )  # fmt: skip
    yield Question(
        id="C11c", cell=place, statistic="overlap_gap_closed", setting=setting,
        a=Side(OURS, "gap_closed"), b=Side(OURS, "gap"), compare="ratio", target="value >= 0.6", min_seeds=SEEDS,
    )  # fmt: skip
