"""The compact study: its arms differ as they say, its measures are right on hand cases, its claims are all asked."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.evaluation.metrics import Ranking, recall_at
from ml.experiments.compact.arms import Subject, arms
from ml.experiments.compact.runs import (
    Task,
    measure_control,
    measure_size,
    multiply_adds,
    shifted,
    with_label_noise,
)
from ml.experiments.compact.study import DIFFERENCES, EXPERIMENT
from ml.experiments.data import Dataset, few, open_dataset
from ml.experiments.evidence import Evidence
from ml.experiments.ledger import Ledger
from ml.experiments.protocol import Options
from ml.models.config import CompactConfig, EncoderConfig, ResidualConfig
from ml.models.encoder import ImageEncoder
from ml.onnx_encoder import open_onnx_encoder

DIGITS = Subject("digits", "fashion_mnist", 28, 1, 10)


@pytest.fixture(scope="module")
def digits(data_packs: Path) -> Dataset:
    return few(open_dataset(data_packs / "fashion_mnist"), 12)


def test_each_control_changes_one_thing_of_the_base() -> None:
    base, *others = [arm for arm in arms(DIGITS, precision="float32", smoke=False) if arm.part == "control"]

    changed = {arm.name: _differences(asdict(base.recipe), asdict(arm.recipe)) for arm in others}

    assert changed["no-involution"] == changed["two-involutions"] == {"method.encoder.trunk.front"}
    assert changed["relu"] == {"method.encoder.trunk.activation"}
    assert changed["ce"] == {"method.ms_weight"}
    assert changed["ms"] == {"method.ce_weight", "method.ms_weight", "method.ms_from_epoch"}
    assert changed["kernel-3"] == {"method.encoder.trunk.involution_kernel"}
    assert {name for name, difference in changed.items() if not difference} == {
        "label-noise-10%", "label-noise-20%", "label-noise-40%"
    }  # fmt: skip
    assert [arm.label_noise for arm in others if arm.label_noise] == [0.1, 0.2, 0.4]


def test_every_difference_that_is_claimed_has_its_arms() -> None:
    controls = [arm for arm in arms(DIGITS, precision="float32", smoke=False) if arm.part == "control"]
    claimed = {arm.name for arm in controls if arm.seeds == 5}

    assert {name for _, a, b, *_ in DIFFERENCES for name in (a, b)} <= claimed


def test_a_shift_moves_whole_pixels_and_repeats_the_border() -> None:
    pixels = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)

    assert shifted(pixels, 1, 0)[0, 0].tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert shifted(pixels, 0, -1)[0, 0].tolist() == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]


def test_label_noise_replaces_its_share_and_no_more(digits: Dataset) -> None:
    images = digits.train.images

    noisy = with_label_noise(images, 0.25, seed=3)

    assert int((noisy.labels != images.labels).sum()) == round(0.25 * len(images)) == 30
    assert set(noisy.labels.tolist()) <= set(range(10))
    assert torch.equal(with_label_noise(images, 0.0, seed=3).labels, images.labels)


def test_multiply_adds_match_a_count_by_hand() -> None:
    trunk = CompactConfig(front=("involution",), widths=(8,), strides=(2,), involution_kernel=3)
    encoder = ImageEncoder(
        EncoderConfig(trunk=trunk, input_size=32, code_bits=64, code_hidden=8, dimension=8)
    )

    involution = 32 * 32 * (3 * 3 + 3 * 9 + 9 * 3)  # two 1 x 1 convolutions, then nine products a channel
    convolution = 16 * 16 * 8 * 3 * 9
    heads = 8 * 8 + 8 * 64 + 8 * 8
    assert multiply_adds(encoder) == involution + convolution + heads


def test_a_control_is_trained_measured_and_comes_out_the_same_again(digits: Dataset, tmp_path: Path) -> None:
    task = _task(digits, "one-involution")

    record = measure_control(task, tmp_path / "checkpoint")
    again = measure_control(task, tmp_path / "other")

    assert record.values["recall_at_1"] == pytest.approx(np.mean(record.per_query["recall_at_1"]))
    assert np.array_equal(record.per_query["recall_at_1"], again.per_query["recall_at_1"])
    assert 0.2 < float(record.values["recall_at_1"]) <= 1  # chance is 0.1
    assert record.values["recall_at_1_shift_4"] != record.values["recall_at_1"]


def test_wrong_labels_and_a_teacher_change_what_is_learned(digits: Dataset, tmp_path: Path) -> None:
    plain = _task(digits, "one-involution")
    teacher = ImageEncoder(replace(plain.recipe.method.encoder, mean=(0.3,), std=(0.3,))).eval()
    tasks = [plain, replace(plain, label_noise=0.4), replace(plain, teacher=lambda: teacher)]

    losses = [measure_control(task, tmp_path / str(i)).values["loss"] for i, task in enumerate(tasks)]

    assert len(set(losses)) == 3


def test_a_size_is_measured_from_its_exported_file(digits: Dataset, tmp_path: Path) -> None:
    record = measure_size(_task(digits, "budget"), tmp_path / "checkpoint")

    graph = record.files["encoder.onnx"]
    assert record.values["bytes_fp32"] == len(graph) <= 1_000_000
    assert int(record.values["bytes_int8"]) <= 300_000
    assert np.array_equal(record.per_query["recall_at_1"], _naive_recall(graph, digits))


def test_the_plan_measures_sizes_first_and_asks_every_claim(digits: Dataset, tmp_path: Path) -> None:
    options = Options(seeds=(0, 1, 2, 3, 4), smoke=False, threads=1, ledger=Ledger(tmp_path))
    planned = EXPERIMENT.plan([digits], options)
    rows = [{"setting": run.setting, "name": run.name, "seed": run.seed} for run in planned]

    questions = EXPERIMENT.questions(Evidence(rows, {}))

    assert [run.setting for run in planned[:5]] == ["fashion_mnist"] * 5
    assert len({(run.setting, run.name, run.seed) for run in planned}) == len(planned)
    assert {question.id for question in questions} == {"C1", "C2", "C2b"}
    names = {(row["setting"], row["name"]) for row in rows}
    assert all((q.setting, side.name) in names for q in questions for side in (q.a, q.b) if side)


def test_a_student_is_taught_by_the_encoder_that_the_ledger_kept(
    small_grocery: Dataset, tmp_path: Path
) -> None:
    options = Options(seeds=(0,), smoke=False, threads=1, ledger=Ledger(tmp_path))
    student = next(
        run for run in EXPERIMENT.plan([small_grocery], options) if run.name == "distilled-student"
    )
    teacher = student.work.args[0].teacher  # type: ignore[attr-defined]

    assert isinstance(teacher().config.trunk, ResidualConfig)
    assert len(list(tmp_path.glob("*/record.json"))) == 1
    assert student.identity["teacher"]["recipe"]["method"]["encoder"]["trunk"]["kind"] == "residual"


def _task(dataset: Dataset, name: str) -> Task:
    subject = Subject("digits", dataset.name, 28, 1, 10)
    arm = next(arm for arm in arms(subject, precision="float32", smoke=True) if arm.name == name)
    return Task(name, dataset.name, 0, dataset, arm.recipe)


def _naive_recall(graph: bytes, dataset: Dataset) -> list[float]:
    encoder = open_onnx_encoder(graph, input_size=28, code_bits=128, dimension=128)

    def embed(pixels: torch.Tensor) -> np.ndarray:
        return encoder.encode(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().copy()).embeddings

    gallery, queries = embed(dataset.train.images.pixels), embed(dataset.test.images.pixels)
    labels, ids = dataset.train.labels(), np.arange(len(dataset.train))
    return [
        recall_at(Ranking.of(gallery @ query, labels, ids, label=int(label)), 1)
        for query, label in zip(queries, dataset.test.labels(), strict=True)
    ]


def _differences(a: dict[str, object], b: dict[str, object], prefix: str = "") -> set[str]:
    """Dotted names of the values in which two nested dictionaries differ."""
    found: set[str] = set()
    for name, left in a.items():
        right = b[name]
        if isinstance(left, dict) and isinstance(right, dict):
            found |= _differences(left, right, f"{prefix}{name}.")
        elif left != right:
            found.add(f"{prefix}{name}")
    return found
