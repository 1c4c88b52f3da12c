"""What the claims C11a to C11c ask of the fine-tunings."""

from collections.abc import Iterator

from ml.experiments.claims import Question, Side
from ml.experiments.corrector.training_arms import ALONE, FASTER, OURS, PERIODIC, PLAIN, SEEDS, STALE
from ml.experiments.evidence import Evidence

LARGE = 60_000  # items of a catalogue that claims are about


def training_questions(evidence: Evidence) -> list[Question]:
    """C11 of every large catalogue, in the order of the rows."""
    return [question for setting in large_settings(evidence) for question in _of(setting, evidence)]


def large_settings(evidence: Evidence) -> list[str]:
    """Settings whose catalogue is large enough for claims."""
    return list(
        dict.fromkeys(
            str(row["setting"])
            for row in evidence.rows
            if row["name"] == OURS and str(row["setting"]).startswith("training/") and row["items"] >= LARGE
        )
    )


def _of(setting: str, evidence: Evidence) -> Iterator[Question]:
    place = setting.removeprefix("training/")
    better = Side(PERIODIC, "recall_at_1")
    for cell, metric, worse in (
        ("encoded anew", "recall_at_1", Side(STALE, "recall_at_1")),
        ("corrected, no image opened", "recall_at_1_view", Side(PERIODIC, "recall_at_1_stale")),
    ):
        yield Question(
            id="C11a", cell=f"{place}, catalogue {cell}", statistic="recall_over_reembedding", setting=setting,
            a=Side(OURS, metric), b=better, compare="ratio", target="value >= 0.98", headroom=(better, worse),
            min_seeds=SEEDS,
        )  # fmt: skip
    yield Question(
        id="C11b", cell=place, statistic="encode_ratio", setting=setting,
        a=Side(PERIODIC, "extra_encodes"), b=Side(OURS, "extra_encodes"), compare="ratio", target="value >= 20",
        min_seeds=SEEDS,
    )  # fmt: skip
    names = {str(row["name"]) for row in evidence.rows if row["setting"] == setting}
    for name, cell in ((OURS, place), (FASTER, f"{place}, learning rate 0.001")):
        if name in names:
            yield Question(
                id="C11c", cell=cell, statistic="overlap_gap_closed", setting=setting, compare="ratio",
                a=Side(name, "gap_closed"), b=Side(name, "gap"), target="value >= 0.6", min_seeds=SEEDS,
                note=_without_memory(evidence, setting) if name == OURS else "",
            )  # fmt: skip


def _without_memory(evidence: Evidence, setting: str) -> str:
    """What either half of ours comes to alone, where that was measured."""
    closed = {
        words: _share_closed(evidence, setting, name)
        for name, words in (
            (PLAIN, "nothing remembered, the method file's form"),
            (ALONE, "no map, one seed"),
        )
    }
    told = [f"{words}: {share:.2f}" for words, share in closed.items() if share is not None]
    return f"ours; {'; '.join(told)}" if told else ""


def _share_closed(evidence: Evidence, setting: str, name: str) -> float | None:
    closed, gap = (
        list(evidence.values(setting=setting, name=name, metric=metric).values())
        for metric in ("gap_closed", "gap")
    )
    return sum(closed) / sum(gap) if gap else None
