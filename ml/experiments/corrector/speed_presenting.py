"""How the speed of correcting is shown on docs/results.md."""

from typing import Any

import numpy as np

from ml.experiments.corrector.speed import DIMENSION, ENCODER, MAPS, NAME, SETTING, Load
from ml.experiments.evidence import Evidence

Row = dict[str, Any]
MOST = 0.01  # of what encoding takes, that correcting may


def speed_tables(evidence: Evidence) -> list[Row]:
    """Two tables, means over seeds; no rows without runs."""
    shown = MAPS if any(row["setting"] == SETTING for row in evidence.rows) else {}
    return [
        {
            "title": f"Correcting {DIMENSION} numbers a vector, half precision in and out (processor time, one thread)",
            "rows": [_of_map(evidence, kind) for kind in shown],
        },
        {
            "title": "Correcting a gallery instead of encoding its images again (processor time, one thread)",
            "note": f"The encoder has `budget` widths at {ENCODER.input_size} pixels a side, served as in the product; "
            "opening and scaling the images is not counted, so encoding takes more than this.",
            "rows": [_beside_encoding(evidence, kind) for kind in shown],
        },
    ]  # fmt: skip


def _of_map(evidence: Evidence, kind: str) -> Row:
    own, products = (
        _mean(evidence, f"{name}_vectors_per_second") for name in (kind, f"{kind}_products")
    )  # fmt: skip
    return {
        "map": MAPS[kind], "vectors a second": round(own), "its matrix products alone, a second": round(products),
        "of their speed": own / products, "seconds of one million": 1e6 / own,
    }  # fmt: skip


def _beside_encoding(evidence: Evidence, kind: str) -> Row:
    encoding = Load().vectors * _mean(evidence, "encode_ms_per_image") / 1_000
    share = _mean(evidence, f"{kind}_share_of_encoding")
    return {
        "map": MAPS[kind], "encoding, ms an image": _mean(evidence, "encode_ms_per_image"),
        "encoding a million, s": encoding, "correcting a million, s": share * encoding,
        "share": share, f"at most {MOST:g}": share <= MOST,
    }  # fmt: skip


def _mean(evidence: Evidence, metric: str) -> float:
    return float(np.mean(list(evidence.values(setting=SETTING, name=NAME, metric=metric).values())))
