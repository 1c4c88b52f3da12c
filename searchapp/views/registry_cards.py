"""One version of the registry in words: where it comes from, what it is made of, what it made, how it is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchapp.services.version_record import VersionRecord
from searchapp.views.history_cards import HistoryCard, history_card
from searchapp.views.model_cards import METHOD_WORDS
from searchapp.views.verdict_words import counted, percent, size_words

OWN = "self"
METRICS = (
    ("map", "Mean average precision"),
    ("recall_at_1", "Right at first place"),
    ("recall_at_10", "Right among the first ten"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    value: str
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """How similarities to one version's entries become a probability."""

    producer: str
    source: str
    strong: str
    weak: str
    pool: str


@dataclass(frozen=True, slots=True)
class TrainedMetrics:
    """What the training itself measured, of one set."""

    of: str
    photos: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegistryPage:
    facts: tuple[Fact, ...]
    ancestors: tuple[str, ...]
    children: tuple[str, ...]
    lineage: str
    entries: str
    files: tuple[Fact, ...]
    calibrations: tuple[CalibrationRow, ...]
    metric_names: tuple[str, ...]
    metrics: tuple[TrainedMetrics, ...]
    config: str  # the settings of its training, as JSON
    history: tuple[HistoryCard, ...]
    judged_beside: tuple[str, ...]
    problem: str  # why its files cannot be used; "" when they are whole


def registry_page(record: VersionRecord) -> RegistryPage:
    manifest = record.manifest
    training = manifest.get("training", {})
    return RegistryPage(
        facts=tuple(_facts(record, manifest, training)),
        ancestors=tuple(one.name for one in record.ancestors),
        children=tuple(one.name for one in record.children),
        lineage=_lineage([one.name for one in record.lineage]),
        entries=_entries(record),
        files=tuple(
            Fact(name, f"{size_words(file['bytes'])} · {file['sha256']}", is_code=True)
            for name, file in sorted(manifest.get("files", {}).items())
        ),
        calibrations=tuple(_calibrations(record, manifest.get("calibration", {}))),
        metric_names=tuple(name for _, name in METRICS),
        metrics=tuple(_metrics(manifest.get("metrics", {}))),
        config=json.dumps(training.get("recipe") or manifest.get("config") or {}, indent=2, sort_keys=True),
        history=tuple(history_card(entry) for entry in record.history),
        judged_beside=record.judged_beside,
        problem=record.problem,
    )


def _facts(record: VersionRecord, manifest: Mapping[str, Any], training: Mapping[str, Any]) -> list[Fact]:
    version = record.version
    facts = [
        Fact("Method", METHOD_WORDS.get(version.method, version.method)),
        Fact("Architecture", version.architecture),
        Fact("Code and embedding", f"{version.code_bits} bits, {version.dimension} numbers"),
        Fact("Size", f"{size_words(version.size_bytes)} ({version.size_bytes:,} bytes)"),
        Fact(
            "Knows",
            counted(len(version.label_registry or manifest.get("labels", ())), "category", "categories"),
        ),
    ]
    if training.get("images"):
        learned = counted(int(training["images"]), "photo")
        classes = counted(int(training.get("classes") or 0), "class", "classes")
        facts.append(Fact("Learned from", f"{learned} of {classes}"))
    if training.get("seconds"):
        facts.append(Fact("Time of training", f"{training['seconds']:,.0f} s"))
    if "seed" in training:
        facts.append(Fact("Seed", str(training["seed"])))
    if training.get("data_fingerprint"):
        facts.append(Fact("Data fingerprint", str(training["data_fingerprint"]), is_code=True))
    facts.append(Fact("Digest", version.digest, is_code=True))
    return facts


def _lineage(others: Sequence[str]) -> str:
    return (
        f"May be compared with {', '.join(others)}" if others else "Its own; compared with no other version"
    )


def _entries(record: VersionRecord) -> str:
    if not record.encoded and not record.solved:
        return "None: it answers from what others stored"
    solved = f", {record.solved:,} solved with their category's labels" if record.solved else ""
    return f"{record.encoded:,} encoded{solved}"


def _calibrations(record: VersionRecord, told: Mapping[str, Any]) -> list[CalibrationRow]:
    """Its own, those the bundle brings, and those measured here."""
    names = {one.digest: one.name for one in record.lineage}
    rows = [
        _calibration(record.version.name if digest == OWN else names[digest], "its bundle", values)
        for digest, values in told.items()
        if digest == OWN or digest in names
    ]
    for row in record.calibrations:
        through = f", through corrector {row.corrector_digest[:8]}" if row.corrector_digest else ""
        rows.append(_calibration(row.producer.name, f"measured here{through}", row.values))
    return rows


def _calibration(producer: str, source: str, values: Mapping[str, Any]) -> CalibrationRow:
    return CalibrationRow(
        producer,
        source,
        strong=f"{values['strong']:.2f}" if "strong" in values else "–",
        weak=f"{values['weak']:.2f}" if "weak" in values else "–",
        pool=f"{values['pool_size']:,}" if "pool_size" in values else "–",
    )


def _metrics(metrics: Mapping[str, Any]) -> list[TrainedMetrics]:
    """Of each validation set that the bundle tells of, as it would serve."""
    found = []
    validation = metrics.get("validation")
    for name, row in (validation if isinstance(validation, Mapping) else {}).items():
        values = row.get("fused", row) if isinstance(row, Mapping) else {}
        if any(isinstance(values.get(metric), int | float) for metric, _ in METRICS):
            numbers = tuple(
                percent(values[metric]) if isinstance(values.get(metric), int | float) else "–"
                for metric, _ in METRICS
            )
            found.append(
                TrainedMetrics(str(name).replace("_", " "), f"{int(row.get('queries', 0)):,}", numbers)
            )
    return found
