"""What C8, C9a, C9b, C9c and C10 ask of the rows."""

from collections.abc import Iterator, Sequence

import numpy as np

from ml.experiments.claims import Question, Side
from ml.experiments.compatible.arms import CLAIMED_SEEDS, FREE, NDPP, ODPP, OLD, PLAIN, STRENGTHS
from ml.experiments.compatible.chains import SETTING as CHAIN
from ml.experiments.compatible.chains import pairs
from ml.experiments.evidence import Evidence

FEWEST_SEEDS = 3  # end to end as registered; of flips, curves and chains for want of time
LOST = 0.01  # of self-test by prototype-BCT against free training, from which on C9b asks for a gain
METHODS = (NDPP, ODPP)
_HEADROOM = (Side(FREE, "self_map"), Side(OLD, "self_map"))


def questions_of(evidence: Evidence) -> list[Question]:
    """Of every setting that has rows, claim by claim."""
    asked = [question for setting in upgrades(evidence) for question in _of_upgrade(evidence, setting)]
    asked += [question for setting in swept(evidence) for question in _of_curve(evidence, setting)]
    asked += list(_of_chain(evidence))
    return sorted(asked, key=lambda question: (int(question.id.strip("Cabc")), question.id))


def upgrades(evidence: Evidence) -> list[str]:
    """Settings in which an encoder was trained without a thought of the old one, wrong labels and digits apart."""
    found = dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == FREE)
    return [name for name in found if name != CHAIN and "wrong labels" not in name and "mnist" not in name]


def seeds_of(setting: str) -> int:
    """With how many the claims on mAP were registered."""
    return FEWEST_SEEDS if setting.startswith("end-to-end/") else CLAIMED_SEEDS


def swept(evidence: Evidence) -> list[str]:
    """Settings with a curve over strengths."""
    name = _at(STRENGTHS[0])
    return list(dict.fromkeys(str(row["setting"]) for row in evidence.rows if row["name"] == name))


def _at(strength: float) -> str:
    return f"{NDPP} {strength:g}" if strength else PLAIN


def common_means(evidence: Evidence, setting: str, sides: Sequence[Side]) -> list[float]:
    """The row values' means over the seeds that all sides have; NaN without any."""
    found = [evidence.values(setting=setting, name=side.name, metric=side.metric) for side in sides]
    seeds = sorted(set.intersection(*map(set, found)))
    return [float(np.mean([own[seed] for seed in seeds])) if seeds else float("nan") for own in found]


def _mean(evidence: Evidence, setting: str, name: str, metric: str) -> float:
    return common_means(evidence, setting, [Side(name, metric)])[0]


def _gain(evidence: Evidence, setting: str, name: str, stage: str) -> float:
    """Cross-test minus the old self-test, of one stage."""
    cross, old = common_means(
        evidence, setting, [Side(name, f"{stage}cross_map"), Side(OLD, f"{stage}self_map")]
    )
    return cross - old


def _of_upgrade(evidence: Evidence, setting: str) -> Iterator[Question]:
    free, plain = common_means(evidence, setting, [Side(FREE, "self_map"), Side(PLAIN, "self_map")])
    lost, seeds = free - plain, seeds_of(setting)
    for name in METHODS:
        cell, own = f"{setting}/{name}", Side(name, "self_map")

        def mean(metric: str, name: str = name) -> float:
            return _mean(evidence, setting, name, metric)

        yield Question(
            id="C8", cell=cell, statistic="cross_minus_old_map", setting=setting, family="C8",
            a=Side(name, "cross_map"), b=Side(OLD, "self_map"), target="low > 0", headroom=_HEADROOM,
            min_seeds=seeds,
            note=f"fused answer {_gain(evidence, setting, name, 'fused_'):+.3f}, codes "
            f"{_gain(evidence, setting, name, 'code_'):+.3f}; on classes that nobody learned "
            f"{mean('cross_map_unseen'):.3f} of {mean('self_map_unseen'):.3f} by itself",
        )  # fmt: skip
        yield Question(
            id="C9a", cell=cell, statistic="self_over_independent", setting=setting, compare="ratio",
            a=own, b=Side(FREE, "self_map"), target="value >= 0.99", headroom=_HEADROOM, min_seeds=seeds,
        )  # fmt: skip
        yield Question(
            id="C9b", cell=f"{cell}, self-test", statistic="self_minus_prototype_bct", setting=setting,
            family="C9b", a=own, b=Side(PLAIN, "self_map"), headroom=_HEADROOM, min_seeds=seeds,
            target="value >= 0.01, low > 0" if lost >= LOST else "value >= -0.003",
            note=f"prototype-BCT loses {lost:+.3f} to free training",
        )  # fmt: skip
        yield Question(
            id="C9b", cell=f"{cell}, cross-test", statistic="self_minus_prototype_bct", setting=setting,
            a=Side(name, "cross_map"), b=Side(PLAIN, "cross_map"), headroom=_HEADROOM, min_seeds=seeds,
            target="value >= -0.005", note="the cross-test's part of the claim",
        )  # fmt: skip
        yield Question(
            id="C9c", cell=f"{cell}, crowded classes", statistic="mechanism", setting=setting, family="C9c crowded",
            a=Side(name, "crowded_contrast"), b=Side(PLAIN, "crowded_contrast"), target="low > 0",
            headroom=_HEADROOM, min_seeds=seeds,
            note="gain over prototype-BCT in self-test, the most crowded quarter of old classes minus the rest",
        )  # fmt: skip
        yield Question(
            id="C10", cell=cell, statistic="negative_flip_ratio", setting=setting, compare="ratio", family="C10",
            a=Side(name, "negative_flips"), b=Side(FREE, "negative_flips_backfilled"), target="value <= 0.5",
            headroom=_HEADROOM, min_seeds=FEWEST_SEEDS,
            note=f"{mean('negative_flips'):.3f} of queries; prototype-BCT "
            f"{_mean(evidence, setting, PLAIN, 'negative_flips'):.3f}; after a full backfill "
            f"{mean('negative_flips_backfilled'):.3f}",
        )  # fmt: skip


def _of_curve(evidence: Evidence, setting: str) -> Iterator[Question]:
    """The best strength is chosen on validation queries, so the curve's ends are fair to it."""
    every = (0.0, *STRENGTHS)
    chosen = common_means(evidence, setting, [Side(_at(strength), "choosing_p_1") for strength in every])
    best = max(STRENGTHS[:-1], key=lambda strength: chosen[every.index(strength)])
    for end in (0.0, STRENGTHS[-1]):
        yield Question(
            id="C9c", cell=f"{setting}, strength {best:g} against {end:g}", statistic="mechanism", setting=setting,
            a=Side(_at(best), "p_1"), b=Side(_at(end), "p_1"), target="value > 0", min_seeds=FEWEST_SEEDS,
            headroom=_HEADROOM,
            note=f"P_1; {best:g} is the best inside on validation queries",
        )  # fmt: skip
    found = common_means(evidence, setting, [Side(_at(strength), "p_1") for strength in every])
    top = every[int(np.argmax(found))]
    yield Question(
        id="C9c", cell=f"{setting}, automatic strength", statistic="mechanism", setting=setting,
        a=Side(_at(top), "p_1"), b=Side(NDPP, "p_1"), target="value <= 0.01", min_seeds=FEWEST_SEEDS,
        headroom=_HEADROOM,
        note=f"P_1 at the best strength of all, {top:g} on these very queries, minus that at the automatic one",
    )  # fmt: skip


def _of_chain(evidence: Evidence) -> Iterator[Question]:
    for name in METHODS:
        for new, old in pairs():
            if not np.isfinite(_mean(evidence, CHAIN, name, f"map_{new}_{old}")):
                continue
            yield Question(
                id="C8", cell=f"chain, generation {new} on {old}/{name}", statistic="cross_minus_old_map",
                setting=CHAIN, family="C8 chain", a=Side(name, f"map_{new}_{old}"), b=Side(name, f"map_{old}_{old}"),
                target="low > 0", min_seeds=FEWEST_SEEDS,
                headroom=(Side(FREE, f"map_{new}_{new}"), Side(name, f"map_{old}_{old}")),
            )  # fmt: skip
