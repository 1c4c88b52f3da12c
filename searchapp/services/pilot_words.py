"""What a pilot says of the whole training, kept so that it can be held against what came out.

The rule is as simple as it can be: the whole training ends no worse than its first tenth, and takes as long for each
epoch. So the pilot's own figures are the least to expect, and their interval over photos is how sure that is.
"""

from collections.abc import Mapping
from typing import Any

from ml.base_version.candidate import NOTE
from ml.base_version.catalogue_candidate import ASKED, Pilot
from searchapp.services.savings import duration_words

NOTHING_TO_ASK = "There are too few photos to try it on first: no category has eight that may be trained on."


def pilot_row(pilot: Pilot | None, *, of_epochs: int) -> dict[str, Any]:
    """For the job's checkpoint; the keys are told in services.candidate_training."""
    gain = None if pilot is None else pilot.gain()
    if pilot is None or gain is None:
        return {"epochs": 0, "of_epochs": of_epochs, "words": NOTHING_TO_ASK}
    found = pilot.found.means
    row: dict[str, Any] = {
        "cross_map": found["cross"], "own_map": found["own"], "old_map": found["cross"] - gain.value,
        "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "predicted_cross_map": found["cross"],
    }  # fmt: skip
    row = {name: round(value, 4) for name, value in row.items()}
    seconds = pilot.seconds * of_epochs / pilot.epochs
    row |= {
        "epochs": pilot.epochs,
        "of_epochs": of_epochs,
        "photos": gain.clusters,
        "seconds": round(pilot.seconds, 1),
        "predicted_seconds": round(seconds, 1),
    }
    return row | {"words": _words(row)}


def with_outcome(pilot: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pilot and, beside it, what the whole training came to on the same photos, as its version tells."""
    if pilot is None:
        return None
    found = manifest["metrics"][NOTE][ASKED]
    outcome = {f"{name}_map": round(found[name], 4) for name in ("cross", "own")} if found else {}
    return {**pilot, "outcome": {**outcome, "seconds": manifest["training"]["seconds"]}}


def _words(row: Mapping[str, Any]) -> str:
    low, high = row["gain_low"], row["gain_high"]
    sign = "better" if low > 0 else "worse" if high < 0 else "no different for certain"
    photos = f"{row['photos']:,} photos that no training sees"
    return (
        f"After {row['epochs']} of {row['of_epochs']} epochs the candidate finds what is stored with a mean average "
        f"precision of {row['cross_map']:.3f}, the version in use with {row['old_map']:.3f} ({photos}): "
        f"{row['gain']:+.3f}, {low:+.3f} to {high:+.3f}, {sign}. The whole training should end there or above and take "
        f"about {duration_words(row['predicted_seconds'])}."
    )
