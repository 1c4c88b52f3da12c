"""The corrector bundle: maps from the embeddings of older trunks to those of one newer, as a content-addressed folder.

`<digest>/manifest.json` and `<digest>/maps.safetensors`. Trunks are named by the digest of their first version, M.0:
all increments of M share its embedding head, so one map serves them all. Nothing here unpickles, nor loads torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import save as save_safetensors

from ml.artifacts import (
    MANIFEST_FILE,
    BundleError,
    Weights,
    check_file_entry,
    content_digest,
    folder_write,
    plain_manifest,
    tensors_of,
    verified_file,
)
from ml.corrector_map import CorrectorMap, ErrorMap

FORMAT_VERSION = 1
MAPS_FILE = "maps.safetensors"
MOST_MAPS = 64  # trunks that one gallery can be of
_KEYS = {"format", "kind", "target", "dimension", "maps", "given_up", "fitting", "files", "digest"}
_KIND = "corrector"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TrunkMap:
    """The map of one source trunk, what it predicts of its own error, and what the probe said of it (ProbeReport)."""

    corrector: CorrectorMap
    errors: ErrorMap
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CorrectorBundle:
    """A verified bundle. Trunks are named by the digest of their M.0.

    target: the trunk it leads to. maps: by source trunk. given_up: by source trunk, why there is none.
    fitting: settings and counts of the fit, plain values.
    """

    digest: str
    target: str
    dimension: int
    maps: Mapping[str, TrunkMap]
    given_up: Mapping[str, str]
    fitting: Mapping[str, Any]


def corrector_bundle_write(
    parent: Path,
    *,
    target: str,
    maps: Mapping[str, TrunkMap],
    given_up: Mapping[str, str],
    fitting: Mapping[str, Any],
) -> CorrectorBundle:
    """Write `parent`/<digest>; one that is there already stays. Raises BundleError when it would not load.

    The same input gives the same digest.
    """
    data = save_safetensors(_tensors(maps))
    plain: dict[str, Any] = {
        "format": FORMAT_VERSION, "kind": _KIND, "target": target,
        "dimension": max((one.corrector.dimension for one in maps.values()), default=0),
        "maps": {trunk: dict(one.report) for trunk, one in sorted(maps.items())},
        "given_up": dict(sorted(given_up.items())), "fitting": dict(fitting),
        "files": {MAPS_FILE: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
    }  # fmt: skip
    plain["digest"] = content_digest(plain)
    folder = parent / plain["digest"]
    if not folder.exists():
        manifest = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        folder_write(folder, {MAPS_FILE: data, MANIFEST_FILE: manifest.encode()}, check=corrector_bundle_load)
    return corrector_bundle_load(folder)


def corrector_bundle_load(path: Path) -> CorrectorBundle:
    """Read and verify. Raises BundleError naming the difference, or FileNotFoundError."""
    source = path / MANIFEST_FILE
    plain = plain_manifest(source)
    _check_manifest(source, plain)
    names = sorted(entry.name for entry in path.iterdir())
    if names != sorted([MANIFEST_FILE, MAPS_FILE]):
        raise BundleError(f"{path} holds {', '.join(names)}; expected exactly {MANIFEST_FILE}, {MAPS_FILE}")
    tensors = tensors_of(path / MAPS_FILE, verified_file(path / MAPS_FILE, plain["files"][MAPS_FILE]))
    try:
        maps = _maps(tensors, plain["maps"], plain["dimension"])
    except ValueError as error:
        raise BundleError(f"{path / MAPS_FILE}: {error}") from error
    return CorrectorBundle(
        digest=plain["digest"],
        target=plain["target"],
        dimension=plain["dimension"],
        maps=maps,
        given_up=plain["given_up"],
        fitting=plain["fitting"],
    )


def _tensors(maps: Mapping[str, TrunkMap]) -> Weights:
    return {
        f"{trunk}/{part}/{name}": values
        for trunk, one in maps.items()
        for part, arrays in (("map", one.corrector.arrays()), ("errors", one.errors.arrays()))
        for name, values in arrays.items()
    }


def _maps(tensors: Weights, reports: Mapping[str, Mapping[str, Any]], dimension: int) -> dict[str, TrunkMap]:
    parts: dict[str, dict[str, Weights]] = {trunk: {"map": {}, "errors": {}} for trunk in reports}
    for name, values in tensors.items():
        trunk, _, rest = name.partition("/")
        part, _, tensor = rest.partition("/")
        if part not in parts.get(trunk, {}):
            raise ValueError(f"tensor {name[:120]!r} belongs to no map; maps are of {sorted(reports)}")
        parts[trunk][part][tensor] = values
    found = {}
    for trunk, report in reports.items():
        corrector, errors = CorrectorMap.of(parts[trunk]["map"]), ErrorMap.of(parts[trunk]["errors"])
        if {corrector.dimension, errors.dimension} != {dimension}:
            raise ValueError(f"the map of {trunk} is for {corrector.dimension} numbers, not {dimension}")
        found[trunk] = TrunkMap(corrector, errors, report)
    return found


def _check_manifest(source: Path, plain: Mapping[str, Any]) -> None:
    if set(plain) != _KEYS:
        missing, unknown = sorted(_KEYS - set(plain)), sorted(set(plain) - _KEYS)
        raise BundleError(f"{source}: missing keys {missing}, unknown keys {unknown}")
    if (plain["format"], plain["kind"]) != (FORMAT_VERSION, _KIND):
        raise BundleError(
            f"{source}: it is a {plain['kind']!r} of format {plain['format']!r}, "
            f"this program reads a {_KIND!r} of {FORMAT_VERSION}"
        )
    if plain["digest"] != content_digest(plain):
        raise BundleError(
            f"{source}: digest is {plain['digest']!r}, its content gives {content_digest(plain)}"
        )
    for name in ("maps", "given_up", "fitting", "files"):
        if not isinstance(plain[name], dict):
            raise BundleError(f"{source}: {name} is a {type(plain[name]).__name__}, expected an object")
    if type(plain["dimension"]) is not int:
        raise BundleError(f"{source}: dimension is {plain['dimension']!r}, expected a number")
    trunks = [plain["target"], *plain["maps"], *plain["given_up"]]
    if len(trunks) > MOST_MAPS or not all(_SHA256.fullmatch(str(trunk)) for trunk in trunks):
        raise BundleError(f"{source}: trunks are {trunks[:MOST_MAPS]}, expected at most {MOST_MAPS} digests")
    if not all(isinstance(report, dict) for report in plain["maps"].values()):
        raise BundleError(f"{source}: maps holds something else than reports")
    if set(plain["files"]) != {MAPS_FILE}:
        raise BundleError(f"{source}: files are {sorted(plain['files'])}, expected {MAPS_FILE}")
    check_file_entry(source, MAPS_FILE, plain["files"][MAPS_FILE])


def report_values(report: Any) -> dict[str, Any]:
    """A ProbeReport as the manifest keeps it: numbers rounded to six digits, what is infinite left out."""
    return {name: round(value, 6) for name, value in asdict(report).items() if value != float("inf")}
