"""From pairs to what a corrector bundle keeps of one trunk: the map, its error head and what the probe said."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ml.corrector_map import CorrectorMap, ErrorMap
from ml.methods.corrector.bundle import TrunkMap, report_values
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.fitting import fit_corrector, out_of_fold_errors, refitted
from ml.methods.corrector.pairs import Pairs, rows_to_encode
from ml.methods.corrector.predicted_error import fit_error_head

LEAST_PAIRS = 40  # of fewer the probe says nothing


def trunk_map(
    pairs: Pairs, config: FitConfig, *, categories: NDArray[np.int64], seed: int = 0
) -> TrunkMap | str:
    """Fit to n pairs, a fifth of them the probe; or the reason why there is nothing to correct by.

    categories: (n,). The probe is drawn over all, what is learned from spread over categories. The same input gives
    the same map.
    """
    if len(pairs) < LEAST_PAIRS:
        return f"{len(pairs)} images are too few to fit a map to, at least {LEAST_PAIRS} are needed"
    chosen = rows_to_encode(np.zeros_like(categories), categories, count=len(pairs), seed=seed)
    fitted = fit_corrector(pairs.picked(chosen.fit), pairs.picked(chosen.probe), config, seed=seed)
    if fitted.alert is not None:
        return fitted.alert
    fitted = refitted(fitted, pairs, config, seed=seed)
    errors = out_of_fold_errors(pairs, fitted, config, seed=seed)
    head = fit_error_head(pairs.stale, errors, seed=seed)
    report = report_values(fitted.report) | {
        "kind": fitted.kind,
        "ridge": fitted.ridge,
        "steps": fitted.steps,
    }
    return TrunkMap(
        CorrectorMap.of(_arrays(fitted.corrector)),
        ErrorMap.of(_arrays(head)),
        report | {"out_of_fold_error": round(float(errors.mean()), 6), "pairs": len(pairs)},
    )


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: values.numpy() for name, values in module.state_dict().items()}
