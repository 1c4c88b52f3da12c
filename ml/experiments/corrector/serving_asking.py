"""What C12a, C12b and the group part of C12d ask of the rows."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ml.experiments.claims import HEADROOM, Question, Side
from ml.experiments.corrector.serving_groups import FEWEST
from ml.experiments.corrector.serving_ladder import NAME, PARTIAL
from ml.experiments.evidence import Evidence

FEWEST_SEEDS = 3
_HEADROOM = (Side(NAME, "map_full"), Side(NAME, "map_old"))


def serving_questions(evidence: Evidence) -> list[Question]:
    """Of every upgrade that has rows, claim by claim."""
    asked = [question for setting in upgrades(evidence) for question in _of(evidence, setting)]
    return sorted(asked, key=lambda question: question.id)


def upgrades(evidence: Evidence) -> list[str]:
    """Settings, serving/<data>/<kind of the new encoder>."""
    found = dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == NAME)
    return [setting for setting in found if setting.startswith("serving/")]


def titled(setting: str) -> str:
    """A setting in words."""
    _, data, kind = setting.split("/")
    return f"{data}, {kind} encoder"


def mean_of_rows(evidence: Evidence, setting: str, metric: str) -> float:
    """Over seeds; NaN without any."""
    found = list(evidence.values(setting=setting, name=NAME, metric=metric).values())
    return float(np.mean(found)) if found else float("nan")


def share_of_gain(evidence: Evidence, setting: str, state: str, *, metric: str = "map") -> float:
    """Of what the full backfill gains over the old system, by the means over seeds, as C12a counts it; NaN where that
    is less than claims ask for: a share of next to nothing says nothing.
    """
    reached, old, full = (
        mean_of_rows(evidence, setting, f"{metric}_{name}") for name in (state, "old", "full")
    )
    return (reached - old) / (full - old) if full - old >= HEADROOM else float("nan")


def _of(evidence: Evidence, setting: str) -> Iterator[Question]:
    def share(state: str, metric: str = "map") -> str:
        return f"{share_of_gain(evidence, setting, state, metric=metric):.2f}".replace("nan", "–")

    def mean(metric: str) -> float:
        return mean_of_rows(evidence, setting, metric)

    yield Question(
        id="C12a", cell=titled(setting), statistic="gain_share", setting=setting, compare="ratio", family="C12a",
        a=Side(NAME, "gain_corrected"), b=Side(NAME, "gain_full"), target="value >= 0.95", headroom=_HEADROOM,
        min_seeds=FEWEST_SEEDS,
        note=f"{mean('encoded_share'):.1%} of the images encoded anew; affine map {share('affine')}, rotation "
        f"{share('procrustes')}, no map {share('cross')}, by embeddings alone "
        f"{share('corrected', 'cosine_map')}; probe cosine, median {mean('probe_cosine_median'):.2f}, 5 % quantile "
        f"{mean('probe_cosine_low'):.2f} (the method's gate asks for 0.95 and 0.85)",
    )  # fmt: skip
    yield Question(
        id="C12b", cell=titled(setting), statistic="error_order_minus_random", setting=setting, family="C12b",
        a=Side(NAME, "map_predicted"), b=Side(NAME, "map_random"), target="low > 0", headroom=_HEADROOM,
        min_seeds=FEWEST_SEEDS,
        note=f"{PARTIAL:.0%} encoded anew; order by true error minus random "
        f"{mean('map_true') - mean('map_random'):.4f}, rank correlation of predicted and true error "
        f"{mean('error_correlation'):.2f}",
    )  # fmt: skip
    for grouping in groupings(evidence, setting):
        metric = f"worst_{grouping}_corrected"
        names = Counter(
            str(row[f"{metric}_name"]) for row in evidence.rows
            if row["setting"] == setting and row.get(f"{metric}_name") is not None
        )  # fmt: skip
        shown = ", ".join(f"{name} ({count})" for name, count in names.most_common())
        yield Question(
            id="C12d", cell=f"{titled(setting)}, worst {grouping.replace('_', ' ')}", statistic="worst_group",
            setting=setting, family="C12d groups", a=Side(NAME, metric), target="value >= -0.03",
            min_seeds=FEWEST_SEEDS,
            note=f"of groups with {FEWEST} queries or more, the one that gains least, per seed: {shown}",
        )  # fmt: skip


def groupings(evidence: Evidence, setting: str) -> list[str]:
    """Those that the rows of an upgrade know."""
    metrics = {str(key) for row in evidence.rows if row["setting"] == setting for key in row}
    ends = ("worst_", "_corrected")
    return sorted(
        metric.removeprefix(ends[0]).removesuffix(ends[1])
        for metric in metrics
        if metric.startswith(ends[0]) and metric.endswith(ends[1])
    )
