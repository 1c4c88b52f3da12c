"""The second half of claim C12d: sudden drift is planted, and a map that is worth nothing any more must be given up.

Serving, in made-up catalogues: a map fitted to pairs that tell nothing (each fresh embedding is another image's), and
one that was right until the encoder was replaced at once. Training, on real pictures: the cache's rows are shuffled
midway, so that nothing can be told from them. Each has a control in which nothing happens. A shock counts as caught
when its alert comes as soon as the method's settings promise, its control stays silent, and training goes on with the
stale cache as it is. Beside them an encoder replaced midway in training, which a map may follow by learning: what comes
of it is described, not judged. All settings of the method are its defaults.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ml.experiments.claims import Question, Side
from ml.experiments.corrector.shock_training import (
    Plan,
    described_jump,
    judged_cache,
    none,
    pictures_of,
    replaced,
    shuffled,
    trained_through,
)
from ml.experiments.corrector.synthetic import World
from ml.experiments.data import Dataset
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.corrector.config import FitConfig, JointConfig, Selection
from ml.methods.corrector.fitting import best_ridge, fit_corrector, trained
from ml.methods.corrector.pairs import Pairs
from ml.methods.corrector.probe import ProbeReport, Watch, probed

NAME = SETTING = "shocks"
SEEDS = 5
# The shocks that are judged, by what they befall.
CAUGHT = {
    "fit": "map fitted to pairs of unrelated images",
    "watch": "encoder replaced under a map that serves",
    "cache": "cache shuffled in training",
}
RULE = (
    "no more than the stale error's 0.9, nor the best constant's"  # what counts as help; part of the identity
)
_DRIFT = 1.0  # time of drift of made-up catalogues
_PAIRS, _PROBED = 1_000, 200  # of which the probe


def planned_shocks(datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
    """One run per seed on Fashion-MNIST; none without it."""
    plan, joint = Plan(), JointConfig()
    if options.smoke:
        plan, joint = Plan(steps=20, shock=8, batch=8, per_class=20), JointConfig(check_every=4, refresh=4)
    return [
        PlannedRun(
            name=NAME, setting=SETTING, seed=seed,
            identity={"plan": asdict(plan), "joint": asdict(joint), "fit": asdict(FitConfig()),
                      "selection": asdict(Selection()) | {"ceiling": "inf"}, "data": dataset.fingerprint, "rule": RULE},
            work=partial(measured_shocks, dataset, plan, joint, seed),
        )
        for dataset in datasets
        if (dataset.kind, dataset.name) == ("digits", "fashion_mnist")
        for seed in options.seeds[:SEEDS]
    ]  # fmt: skip


def shock_questions(evidence: Evidence) -> list[Question]:
    """The cell of C12d; none without rows."""
    if not any(row["setting"] == SETTING for row in evidence.rows):
        return []
    return [
        Question(
            id="C12d", cell="planted sudden drift triggers the fallback", statistic="worst_group",
            setting=SETTING, a=Side(NAME, "caught"), target="value >= 1", min_seeds=SEEDS,
            note="share of three planted shocks caught in time, while the same without a shock stayed silent; "
            "an encoder replaced while it trains is another thing: the map learns to follow it, so nothing is given up",
        )
    ]  # fmt: skip


def shock_tables(evidence: Evidence) -> list[dict[str, Any]]:
    """What was planted and what came of it, means over seeds; no rows without runs."""
    if not any(row["setting"] == SETTING for row in evidence.rows):
        return []
    rows = [
        {
            "planted": title, "caught": _mean(evidence, f"{what}_caught"),
            "caught by the stale error alone": _mean(evidence, f"{what}_by_stale_error"),
            "alert after": _delay(evidence, what),
        }
        for what, title in CAUGHT.items()
    ]  # fmt: skip
    given_up, recovered = (_each(evidence, f"jump_{what}") for what in ("delay", "recovery"))
    jump = {
        "planted": "encoder replaced in training", "given up": float(np.mean(given_up > 0)),
        "alert after": _steps(given_up), "a look at which it helped again": float(np.mean(recovered > 0)),
        "after": _steps(recovered),
    }  # fmt: skip
    return [
        {
            "title": "Planted sudden drift (shares of seeds)",
            "note": "A map helps that leaves at most 0.9 of the stale error and of what one vector for all images "
            "would leave. By the stale error alone a map that makes all images alike passes for a good one wherever "
            "stale embeddings are further from fresh ones than the mean of these is.",
            "rows": rows,
        },
        {"title": "An encoder replaced at once while it trains (described, not judged)", "rows": [jump]},
    ]


def _each(evidence: Evidence, metric: str) -> Any:
    return np.array(list(evidence.values(setting=SETTING, name=NAME, metric=metric).values()))


def _mean(evidence: Evidence, metric: str) -> float:
    return float(_each(evidence, metric).mean())


def _delay(evidence: Evidence, what: str) -> str | None:
    found = _each(evidence, f"{what}_delay")
    return _steps(found, unit="looks" if what == "watch" else "steps") if len(found) else "the fit"


def _steps(found: Any, *, unit: str = "steps") -> str | None:
    """The range of those that came."""
    came = found[found > 0]
    if not len(came):
        return None
    least, most = int(came.min()), int(came.max())
    return f"{least} {unit}" if least == most else f"{least} to {most} {unit}"


def measured_shocks(
    dataset: Dataset, plan: Plan, joint: JointConfig, seed: int, _checkpoint: Path
) -> RunRecord:
    """The row. `<what>_caught`: 1 or 0; `<what>_by_stale_error`: the same by a rule that knows the stale error alone;
    `<what>_delay`: looks or steps to the alert, -1 for none.
    """
    started = time.monotonic()
    values = {**shocked_fit(seed), **shocked_watch(plan.looks, joint, seed)}
    training = partial(trained_through, pictures_of(dataset, plan.per_class), plan, joint, seed)
    values |= judged_cache(training(shuffled), training(none), plan, joint)
    values |= described_jump(training(replaced), plan, joint)
    values["caught"] = float(np.mean([values[f"{what}_caught"] for what in CAUGHT]))
    return RunRecord(name=NAME, setting=SETTING, seed=seed, values=values, seconds=time.monotonic() - started)


def shocked_fit(seed: int) -> dict[str, Value]:
    """(a) Pairs of two images each must give the identity and an alert, pairs of one image a map and none."""
    known = World(seed).pairs(_PAIRS, _DRIFT, draw=0)
    order = np.random.default_rng(seed).permutation(_PAIRS)
    mixed = Pairs(known.stale, known.fresh[order])
    unrelated, related = (
        fit_corrector(*_parted(pairs), FitConfig(), seed=seed) for pairs in (mixed, known)
    )  # fmt: skip
    caught = unrelated.kind == "identity" and unrelated.alert is not None and related.alert is None
    given_up = _map_report(mixed, seed)
    return {
        "fit_caught": int(caught), "fit_by_stale_error": int(given_up.ratio > FitConfig().helps_below),
        "fit_ratio": given_up.ratio, "fit_constant": given_up.constant / given_up.staleness,
        "fit_control_ratio": related.report.ratio,
    }  # fmt: skip


def _map_report(known: Pairs, seed: int) -> ProbeReport:
    """Of the map that is given up, which `fit_corrector` does not give."""
    pairs, probe = _parted(known)
    _, affine = best_ridge(pairs, probe, FitConfig(), seed)
    found, _ = trained(affine, pairs, FitConfig(), steps=FitConfig().steps, probe=probe, seed=seed)
    return probed(found.corrected(probe.stale), probe)


def _parted(known: Pairs) -> tuple[Pairs, Pairs]:
    """To fit, and to judge by."""
    return known.picked(np.arange(_PROBED, len(known))), known.picked(np.arange(_PROBED))


def shocked_watch(looks: int, joint: JointConfig, seed: int) -> dict[str, Value]:
    """(b) A fitted map looked at on other images each time, `looks` times before and after another encoder came."""
    world, other = World(seed), World(seed + 1_000)
    known = world.pairs(_PAIRS, _DRIFT, draw=0)
    corrector = fit_corrector(*_parted(known), FitConfig(), seed=seed).corrector
    watch, control = (Watch(below=joint.helps_below, checks=joint.checks) for _ in range(2))
    delay = -1
    for look in range(2 * looks):
        seen = world.pairs(_PROBED, _DRIFT, draw=1 + look)
        control.look(probed(corrector.corrected(seen.stale), seen))
        if look >= looks:
            seen = Pairs(seen.stale, other.moved(seen.stale, _DRIFT))
        watch.look(probed(corrector.corrected(seen.stale), seen))
        if watch.alert is not None and delay < 0:
            delay = look + 1 - looks
    caught = delay == joint.checks and control.alert is None
    after = [report.ratio for report in watch.reports[looks : looks + joint.checks]]
    return {
        "watch_caught": int(caught), "watch_by_stale_error": int(min(after) > joint.helps_below),
        "watch_delay": delay, "watch_ratio": watch.reports[-1].ratio,
        "watch_control_ratio": control.reports[-1].ratio,
    }  # fmt: skip
