"""The experiment itself: its runs, what the claims ask of them, and how they are shown."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ml.experiments.claims import Question, Side
from ml.experiments.compact.arms import CONTROL_SEEDS, SIZE_SEEDS, STUDENT, Arm, Subject, arms
from ml.experiments.compact.runs import SHIFTS, Task, kept_encoder, measure_control, measure_size
from ml.experiments.data import Dataset, few
from ml.experiments.evidence import Evidence
from ml.experiments.protocol import Options, PlannedRun
from ml.models.encoder import ImageEncoder
from ml.training.memory import fastest_precision

CONTROL_IMAGES = 1_000  # training images of a class in the controls, at most
SMOKE_IMAGES = 40
SATURATED = ("mnist",)  # every arm finds nearly everything there: nothing to tell them apart by
MAX_FILE_BYTES = 1_000_000
MAX_INT8_BYTES = 300_000
RECALL_TARGETS = {"mnist": 0.995, "fashion_mnist": 0.93, "cifar10": 0.90}  # claims.md, C1
# C2: (cell, what is to be above, what, in which value, the reason believed when it is not).
FRONT_NOTE = (
    "the layer puts a sum in the picture's place, weighted by kernels made from one to three numbers a pixel, and GELU "
    "silences its negative half; later layers never see what is lost, and each further involution loses more; after "
    "full training the cost is gone (row `budget-no-involution`, one seed), so it is a slower start rather than a "
    "lower ceiling"
)
LOSS_NOTE = "the paper's order of the losses could not be recovered; the direction asked is the method file's"
DIFFERENCES = (
    ("one - none", "one-involution", "no-involution", "recall_at_1", FRONT_NOTE),
    ("one - two", "one-involution", "two-involutions", "recall_at_1", ""),
    ("one - three", "one-involution", "three-involutions", "recall_at_1", ""),
    ("GELU - ReLU", "one-involution", "relu", "recall_at_1", ""),
    ("CE+MS - CE", "one-involution", "ce", "recall_at_1", LOSS_NOTE),
    ("CE+MS - MS", "one-involution", "ms", "recall_at_1", LOSS_NOTE),
    *(
        (f"one - none, {p} px", "one-involution", "no-involution", f"recall_at_1_shift_{p}", FRONT_NOTE)
        for p in SHIFTS
    ),
)
FASHION_NOTE = (
    "short training: 14 epochs on shared cores, where the method file has 100, and quality still rose with epochs; "
    "the same network without its involution ends level (row `budget-no-involution`, one seed), so the operator is "
    "not the limit"
)

CHOICES = [
    {
        "setting": "digits: scale 6, CE + 0.5 MS, 7 x 7 involution in `parity`, 3 x 3 in `budget`",
        "chosen by": "Recall@1 of the 5,000 validation images of Fashion-MNIST in eight trial runs of 4 to 8 epochs, "
        "which changed several settings at a time and are not kept.",
    },
    {
        "setting": "MNIST: 10 epochs, erasing 0.1",
        "chosen by": "a first `budget` run with 6 epochs and erasing 0.25 stayed at 0.9934 on validation; its test "
        "value, 0.9935, had been printed beside it, so the target's side of MNIST is not untouched by selection.",
    },
    {
        "setting": "Fashion-MNIST: 14 epochs; controls: 5 and 12 epochs",
        "chosen by": "the time there was",
    },
]

# Shown in docs/results.md; the result file holds every value.
COLUMNS = [
    "recall_at_1", "recall_at_10", "map_at_100", "map", "knn_5", "code_recall_at_1",
    "recall_at_1_fp16", "recall_at_1_int8", "recall_at_1_shift_4", "recall_at_1_shift_8", "unseen_recall_at_1",
    "recall_at_1_within_test", "parameters", "bytes_fp32", "bytes_fp16", "bytes_int8", "batch_1_ms_fp32",
    "multiply_adds", "training_seconds",
]  # fmt: skip


class CompactStudy:
    """See ml.experiments.protocol.Experiment."""

    name = "compact"
    seeds = CONTROL_SEEDS

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """Sizes first, then controls seed by seed: a study that is cut short has every arm alike."""
        planned = [run for dataset in datasets for run in _runs(dataset, options)]
        sizes = [run for run in planned if "/" not in run.setting]
        controls = [run for run in planned if "/" in run.setting]
        return sizes + sorted(controls, key=lambda run: run.seed)

    def questions(self, evidence: Evidence) -> list[Question]:
        """C1 and C2b for each data set with sizes, C2 for each with controls; each id's C2 cells share Holm."""
        settings = list(dict.fromkeys(str(row["setting"]) for row in evidence.rows))
        asked: list[Question] = []
        for setting in settings:
            if "/" in setting:
                asked += [_difference(setting, cell) for cell in DIFFERENCES]
                names = {row["name"] for row in evidence.rows if row["setting"] == setting}
                asked += _compressed(setting, STUDENT) if STUDENT in names else []
            else:
                asked += [*_sizes(setting), *_compressed(setting, "budget")]
        return asked

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Title, prose, tables and plots of the result file."""
        return {
            "title": "The compact involution encoder (C1, C2, C2b)",
            "about": (
                "Full training (`parity`, `budget`) is judged on the test split against the training split as "
                "gallery; the exported file is what is measured. Controls train the same recipe on at most "
                f"{CONTROL_IMAGES:,} images a class for some 200 steps, so that all arms and seeds fit; they are "
                "compared with each other only, and a slower starter may look like a worse one: "
                "`budget-no-involution` is the same question after full training. Shifted queries move by whole "
                "pixels, in four directions, borders repeated. MNIST has no controls: every arm finds nearly "
                "everything there, so its cells of C2 are untestable. `one-with-shortcut`, ours, was added after one "
                "involution had lost to none in the first seed; `distilled-student` learns from `residual`. Class "
                "accuracy is not reported: the exported file has no class head."
            ),
            "tables": [{"title": "How settings were chosen", "rows": CHOICES}],
            "columns": COLUMNS,
            "plots": [_bytes_plot(evidence)],
        }


EXPERIMENT = CompactStudy()


def _runs(dataset: Dataset, options: Options) -> list[PlannedRun]:
    """Every run on one data set, a teacher before its student."""
    whole = few(dataset, SMOKE_IMAGES) if options.smoke else dataset
    short = whole if options.smoke else _short(dataset)
    runs: dict[tuple[str, int], PlannedRun] = {}
    for arm in arms(_subject(whole), precision=fastest_precision(), smoke=options.smoke):
        if not options.smoke and not _is_wanted(arm, dataset):
            continue
        for seed in options.seeds[: arm.seeds]:
            used = whole if arm.part == "size" else short
            runs[arm.name, seed] = _run(arm, used, seed, runs.get((arm.teacher, seed)), options)
    return list(runs.values())


def _is_wanted(arm: Arm, dataset: Dataset) -> bool:
    """C1 is about digits and CIFAR-10: photos have their own base versions. Saturated data has no controls."""
    return dataset.kind != "pack" if arm.part == "size" else dataset.name not in SATURATED


def _short(dataset: Dataset) -> Dataset:
    """At most CONTROL_IMAGES training images a class; validation and test as they are."""
    fewer = few(dataset, CONTROL_IMAGES)
    return replace(dataset, train=fewer.train, fingerprint=fewer.fingerprint)


def _subject(dataset: Dataset) -> Subject:
    _, channels, size, _ = dataset.train.images.pixels.shape
    return Subject(dataset.kind, dataset.name, size, channels, len(dataset.classes))


def _run(arm: Arm, dataset: Dataset, seed: int, teacher: PlannedRun | None, options: Options) -> PlannedRun:
    """teacher: the run whose encoder teaches this one."""
    setting = dataset.name if arm.part == "size" else f"{dataset.name}/controls"
    identity: dict[str, Any] = {"recipe": arm.recipe.as_values(), "data": dataset.fingerprint}
    if arm.label_noise:
        identity["label_noise"] = arm.label_noise
    if teacher is not None:
        identity["teacher"] = dict(teacher.identity)
    task = Task(
        arm.name, setting, seed, dataset, arm.recipe,
        label_noise=arm.label_noise,
        teacher=None if teacher is None else partial(_trained_by, teacher, options),
    )  # fmt: skip
    measure = measure_size if arm.part == "size" else measure_control
    return PlannedRun(
        name=arm.name, setting=setting, seed=seed, identity=identity, work=partial(measure, task)
    )


def _trained_by(run: PlannedRun, options: Options) -> ImageEncoder:
    """The encoder of another run of this study, trained now if the ledger lacks it."""
    identity = run.full_identity(EXPERIMENT.name, smoke=options.smoke)
    return kept_encoder(options.ledger.run(identity, run.work).files)


def _sizes(setting: str) -> list[Question]:
    target = RECALL_TARGETS.get(setting)
    if target is None:
        return []
    recall = Question(
        id="C1", cell=f"{setting}/budget", statistic="recall_at_1_exported", setting=setting,
        a=Side("budget", "recall_at_1"), target=f"value >= {target}",
        min_seeds=SIZE_SEEDS, note=FASHION_NOTE if setting == "fashion_mnist" else "",
    )  # fmt: skip
    size = Question(
        id="C1", cell=f"{setting}/budget, bytes", statistic="recall_at_1_exported", setting=setting,
        a=Side("budget", "bytes_fp32"), target=f"value <= {MAX_FILE_BYTES}",
    )  # fmt: skip
    return [recall, size]


def _compressed(setting: str, name: str) -> list[Question]:
    place = f"{setting.split('/', 1)[0]}/{name}"
    losses = [
        Question(
            id="C2b", cell=f"{place}, {form} loss", statistic="compressed_loss", setting=setting,
            a=Side(name, "recall_at_1"), b=Side(name, f"recall_at_1_{form}"), target="value <= 0.005",
        )
        for form in ("fp16", "int8")
    ]  # fmt: skip
    size = Question(
        id="C2b", cell=f"{place}, int8 bytes", statistic="compressed_loss", setting=setting,
        a=Side(name, "bytes_int8"), target=f"value <= {MAX_INT8_BYTES}",
    )  # fmt: skip
    return [*losses, size]


def _difference(setting: str, cell: tuple[str, str, str, str, str]) -> Question:
    title, a, b, metric, note = cell
    return Question(
        id="C2", cell=f"{setting.split('/', 1)[0]}: {title}", statistic="paired_recall_at_1", setting=setting,
        a=Side(a, metric), b=Side(b, metric), target="low > 0", family="C2", min_seeds=CONTROL_SEEDS, note=note,
    )  # fmt: skip


def _bytes_plot(evidence: Evidence) -> dict[str, Any]:
    """Recall@1 of each exported form against its bytes, one series per data set and size, with anchors."""
    series = []
    for setting in dict.fromkeys(str(row["setting"]) for row in evidence.rows if "/" not in row["setting"]):
        for name in dict.fromkeys(str(row["name"]) for row in evidence.rows if row["setting"] == setting):
            points = [_point(evidence, setting, name, form) for form in ("int8", "fp16", "fp32")]
            series.append(
                {
                    "name": f"{setting}, {name}",
                    "x": [point[0] for point in points],
                    "y": [point[1] for point in points],
                    "labels": ["int8", "fp16", "fp32"],
                }
            )
    return {
        "file": "compact_recall_bytes.png",
        "title": "Recall@1 against bytes of the exported file",
        "kind": "scatter",
        "x_label": "bytes",
        "x_scale": "log",
        "y_label": "Recall@1 (anchors: accuracy)",
        "series": [*series, *ANCHORS],
    }


def _point(evidence: Evidence, setting: str, name: str, form: str) -> tuple[float, float]:
    metric = "recall_at_1" if form == "fp32" else f"recall_at_1_{form}"
    sizes = evidence.values(setting=setting, name=name, metric=f"bytes_{form}")
    found = evidence.values(setting=setting, name=name, metric=metric)
    return float(np.mean(list(sizes.values()))), float(np.mean(list(found.values())))


# Public figures of the method file, section 8.2: classification accuracy, four bytes a parameter.
ANCHORS = [
    {"name": "Fashion-MNIST anchors", "x": [452_000, 3_072_000], "y": [0.922, 0.954],
     "labels": ["2 conv, 113 K", "DenseNet-BC"]},
    {"name": "MNIST anchors", "x": [35_600, 452_000], "y": [0.995, 0.993],
     "labels": ["8.9 K CNN", "2 conv, 113 K"]},
]  # fmt: skip
