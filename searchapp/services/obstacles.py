"""What stands between a version and its use, in words: files, entries, gates. Each gate that does not pass is named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml.artifacts import BundleError
from searchapp.exceptions import Conflict
from searchapp.models import Deployment, ItemImage, ModelVersion
from searchapp.services import measuring, versions
from searchapp.services.verdict_gates import LEAST_ITEMS

Gate = Mapping[str, Any]

# So many photos are encoded on the way when a version is put in use; more must be asked for.
CATCH_UP = 500
_MAP = "of mean average precision"
# By gate: what is lost for certain, what may be lost; {low}, {high} and {threshold} as _written has them.
GATE_WORDS: Mapping[str, tuple[str, str]] = {
    "map_loss": (
        f"loses at least {{low}} {_MAP} against {{other}}",
        f"may lose up to {{high}} {_MAP} against {{other}}",
    ),
    "flips": (
        "turns at least {low} of the answers wrong that {other} gives right",
        "may turn up to {high} of the answers wrong that {other} gives right",
    ),
    "worst_category": (
        f"loses at least {{low}} {_MAP} in one category",
        f"may lose up to {{high}} {_MAP} in one category",
    ),
    "latency": ("takes at least {low} times as long for a query", "may take up to {high} times as long for a query"),
    "rollback_loss": (
        "would leave the way back to {other} with at least {low} less mean average precision for items added since",
        "may leave the way back to {other} with up to {high} less mean average precision for items added since",
    ),
    "chain_loss": (
        f"loses at least {{low}} {_MAP} against the first version of its encoder",
        f"may lose up to {{high}} {_MAP} against the first version of its encoder",
    ),
    "blocked_flips": ("turns {value:.0f} answers wrong that an operator said must stay right",) * 2,
}  # fmt: skip
_SHARES = ("flips",)
_TIMES = ("latency",)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a version may not be put in use. An override reason lifts those that can be overridden.

    gate: the name of the gate that does not pass, when it is one.
    """

    name: str  # in_use | bundle | entries | gate
    message: str  # in words, for people
    can_override: bool
    gate: str = ""


def obstacles_of(
    version: ModelVersion,
    gates: Sequence[Gate] | None = None,
    *,
    corrector_digest: str = "",
    is_shadow: bool = False,
) -> list[Obstacle]:
    """What stands between a version, seen through that corrector, and its use; empty when it may be promoted at once.

    `gates` are the verdicts to go by, for who has just measured them; else the stored ones that still hold. Nobody
    sees what a version answers in the shadow, so no gate stands before that.
    """
    live = versions.champion()
    if version == live.version:
        if corrector_digest != live.view.corrector_digest:
            return [found for found in [bundle_obstacle(version)] if found is not None]
        return [Obstacle("in_use", f"{version.name} is in use already.", can_override=False)]
    found = [bundle_obstacle(version), _entries_obstacle(version, live)]
    present = [obstacle for obstacle in found if obstacle is not None]
    return (
        present if is_shadow else [*present, *_gate_obstacles(version, live.version, gates, corrector_digest)]
    )


def version_check(
    version: ModelVersion,
    override_reason: str,
    gates: Sequence[Gate] | None = None,
    *,
    corrector_digest: str = "",
    is_shadow: bool = False,
) -> None:
    """Raise Conflict, in words, unless `version` may be put in use, with this reason if one is needed."""
    found = obstacles_of(version, gates, corrector_digest=corrector_digest, is_shadow=is_shadow)
    if final := [obstacle.message for obstacle in found if not obstacle.can_override]:
        raise Conflict(" ".join(final))
    if found and not override_reason:
        told = " ".join(obstacle.message for obstacle in found)
        raise Conflict(f"{told} An override with a reason puts it in use all the same.")


def bundle_obstacle(version: ModelVersion) -> Obstacle | None:
    """None when the version's files are whole."""
    try:
        versions.bundle_of(version)
    except (BundleError, OSError) as error:
        wrong = versions.without_folders(str(error), version)
        return Obstacle("bundle", f"The files of {version.name} cannot be used: {wrong}.", can_override=False)
    return None


def _entries_obstacle(version: ModelVersion, live: Deployment) -> Obstacle | None:
    """Outside the lineage of the version in use nothing of the old gallery can be searched."""
    if versions.lineage_compatible(version, live.version):
        return None
    photos = ItemImage.objects.filter(failure="").count()
    if version.lineage == live.version.lineage:
        words = (
            f"has codes or embeddings of another size than {live.version.name}, so it can search none of them"
        )
        return Obstacle("entries", f"{version.name} {words}.", can_override=False) if photos else None
    missing = measuring.photos_without_entry(version)
    if missing <= CATCH_UP:
        return None
    return Obstacle(
        "entries",
        f"{missing:,} of {photos:,} photos have no entry that {version.name} can search; at most {CATCH_UP} are "
        f"encoded on the way. Run `manage.py encode_missing --model-version {version.name}` first.",
        can_override=False,
    )


def _gate_obstacles(
    version: ModelVersion, live: ModelVersion, gates: Sequence[Gate] | None, corrector_digest: str
) -> list[Obstacle]:
    """A version that was never measured against the one in use has none yet: the job measures it first."""
    if gates is None:
        gates = measuring.gates_of(version, live, corrector_digest=corrector_digest) or ()
    return [
        Obstacle(
            "gate", f"{version.name} {gate_words(gate, live.name)}.", can_override=True, gate=gate["name"]
        )
        for gate in gates
        if gate["verdict"] != "pass"
    ]


def gate_words(gate: Gate, other: str) -> str:
    """What a gate that does not pass says of a version beside `other`: "loses at least 0.050 of …, allowed: 0.01"."""
    if gate["value"] is None:
        return f"cannot be judged by {_label(gate)}: there is no held-out photo that both versions can answer"
    items = gate.get("items", LEAST_ITEMS)
    if items < LEAST_ITEMS and gate["verdict"] == "cannot_tell":
        return (
            f"cannot be judged by {_label(gate)}: there are held-out photos of {items} items, at least {LEAST_ITEMS} "
            "are needed"
        )
    certain, possible = GATE_WORDS.get(
        gate["name"], (f"loses at least {{low}} by the gate {gate['name']}",) * 2
    )
    said = {name: _written(gate, name) for name in ("low", "high", "threshold")}
    is_certain = gate["verdict"] == "fail"
    words = (certain if is_certain else possible).format(other=other, value=gate["value"], **said)
    allowed = f"{words}, allowed: {said['threshold']}"
    return allowed if is_certain else f"{allowed}; the held-out photos are too few to tell"


def _label(gate: Gate) -> str:
    return str(gate["name"]).replace("_", " ")


def _written(gate: Gate, name: str) -> str:
    """A bound, or the value where there is no interval."""
    number = gate["value"] if gate.get(name) is None else gate[name]
    if gate["name"] in _SHARES:
        return f"{100 * number:g} %" if name == "threshold" else f"{100 * number:.1f} %"
    if gate["name"] in _TIMES or name == "threshold":
        return f"{number:.3g}"
    return f"{number:.3f}"
