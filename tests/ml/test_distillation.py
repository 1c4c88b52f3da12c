"""Distillation: what is handed down, that the teacher stays as it is, and plain training without it."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.artifacts import load_bundle
from ml.data.images import ImageSet
from ml.data.sampling import Batch
from ml.methods import distillation
from ml.methods.compact_metric import CompactMetricTrainer
from ml.methods.compact_metric import Config as CompactConfiguration
from ml.methods.distillation import DistillationTrainer, bit_loss, embedding_distance, relation_loss
from ml.models.config import CompactConfig, EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights
from ml.training.loop import StepOutput
from tests.ml.photos import few_photos

STUDENT = EncoderConfig(trunk=CompactConfig(widths=(16, 16, 32, 32)), input_size=48, code_hidden=32)
NOTHING = distillation.Config(embedding_weight=0, relation_weight=0, code_weight=0)


@pytest.fixture(scope="module")
def teacher(bundle_path: Path) -> ImageEncoder:
    """The shipped encoder: trained, three times the student's width."""
    bundle = load_bundle(bundle_path)
    return encoder_from_weights(bundle.manifest.encoder_config, bundle.weights)


@pytest.fixture(scope="module")
def photo_set(data_packs: Path) -> ImageSet:
    return few_photos(data_packs, per_class=4, size=48)


@pytest.fixture(scope="module")
def batch(photo_set: ImageSet) -> Batch:
    return Batch(images=photo_set.pixels.float() / 255.0, labels=photo_set.labels)


def new_student(config: EncoderConfig = STUDENT) -> CompactMetricTrainer:
    torch.manual_seed(3)
    return CompactMetricTrainer(CompactConfiguration(encoder=config), classes=10)


def train(trainer: CompactMetricTrainer | DistillationTrainer, batch: Batch, steps: int) -> list[float]:
    """Loss of each step."""
    optimiser = torch.optim.AdamW(trainer.module().parameters(), lr=4e-3)
    losses = []
    for step in range(steps):
        trainer.start_epoch(step)
        loss = trainer.training_step(batch).loss
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bytes(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@torch.no_grad()
def closeness(student: nn.Module, teacher: ImageEncoder, images: Tensor) -> tuple[float, float]:
    """Mean cosine of the embeddings and share of equal bits, both with batch statistics."""
    student.train()
    logits, embeddings = student(images)
    wanted_logits, wanted = teacher(images)
    return float((embeddings * wanted).sum(1).mean()), float(
        ((logits >= 0) == (wanted_logits >= 0)).float().mean()
    )


def test_without_weights_it_is_plain_training_bit_for_bit(teacher: ImageEncoder, batch: Batch) -> None:
    plain, wrapped = new_student(), DistillationTrainer(NOTHING, teacher, student=new_student())
    taught = DistillationTrainer(distillation.Config(), teacher, student=new_student())

    losses = train(plain, batch, 4)
    assert train(wrapped, batch, 4) == losses
    assert same_bytes(state_of(plain.module()), state_of(wrapped.module()))
    train(taught, batch, 4)
    assert not same_bytes(state_of(plain.module()), state_of(taught.module()))


def test_the_student_moves_towards_the_teacher_and_a_plain_one_does_not(
    teacher: ImageEncoder, batch: Batch
) -> None:
    plain, taught = new_student(), new_student()
    train(plain, batch, 60)
    train(DistillationTrainer(distillation.Config(), teacher, student=taught), batch, 60)

    alone, led = (closeness(one.encoder(), teacher, batch.images) for one in (plain, taught))
    assert abs(alone[0]) < 0.2  # cosine of two unrelated spaces
    assert led[0] > 0.6
    assert alone[1] < 0.55  # half of the bits agree by chance
    assert led[1] > 0.65


@pytest.mark.parametrize(
    ("part", "share"), [("embedding", 0.65), ("relation", 0.3), ("code", 0.93)]
)  # of the loss that 30 steps of plain training leave
def test_each_part_alone_lowers_its_own_loss(
    teacher: ImageEncoder, batch: Batch, part: str, share: float
) -> None:
    weights = {"embedding_weight": 0.0, "relation_weight": 0.0, "code_weight": 0.0, f"{part}_weight": 1.0}
    plain, taught = new_student(), new_student()
    train(plain, batch, 30)
    train(DistillationTrainer(distillation.Config(**weights), teacher, student=taught), batch, 30)

    left, reached = (
        DistillationTrainer(distillation.Config(), teacher, student=one).training_step(batch).logs
        for one in (plain, taught)
    )
    assert reached[f"teacher_{part}"] < share * left[f"teacher_{part}"]


def test_the_teacher_keeps_its_bytes_and_is_not_trained(teacher: ImageEncoder, batch: Batch) -> None:
    before = state_of(teacher)
    trainer = DistillationTrainer(distillation.Config(), teacher, student=new_student())
    trainer.module().train()
    train(trainer, batch, 3)

    assert same_bytes(before, state_of(trainer.teacher))  # batch-norm statistics included
    assert same_bytes(before, state_of(teacher))
    trained = {id(parameter) for parameter in trainer.module().parameters()}
    assert trained.isdisjoint(id(parameter) for parameter in trainer.teacher.parameters())
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())
    assert not trainer.teacher.training


def test_the_loss_is_the_students_own_plus_the_weighted_parts(teacher: ImageEncoder, batch: Batch) -> None:
    config = distillation.Config(embedding_weight=2.0, relation_weight=3.0, code_weight=5.0)
    own = new_student().training_step(batch)
    output = DistillationTrainer(config, teacher, student=new_student()).training_step(batch)

    logs = output.logs
    assert {name: logs[name] for name in own.logs} == own.logs
    expected = float(own.loss.detach())
    expected += 2 * logs["teacher_embedding"] + 3 * logs["teacher_relation"] + 5 * logs["teacher_code"]
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_no_hook_stays_on_the_student(teacher: ImageEncoder, batch: Batch) -> None:
    trainer = DistillationTrainer(distillation.Config(), teacher, student=new_student())
    trainer.training_step(batch)

    assert not any(module._forward_hooks for module in trainer.encoder().modules())


def test_a_student_whose_step_leaves_its_encoder_alone_is_refused(
    teacher: ImageEncoder, batch: Batch
) -> None:
    class Idle(CompactMetricTrainer):
        def training_step(self, batch: Batch) -> StepOutput:
            return StepOutput(loss=batch.images.sum(), logs={})

    student = Idle(CompactConfiguration(encoder=STUDENT), classes=10)
    with pytest.raises(RuntimeError, match=r"ran its heads .* times, expected each once"):
        DistillationTrainer(distillation.Config(), teacher, student=student).training_step(batch)
    assert not student.encoder()._forward_hooks


def test_relations_match_a_double_loop_and_leave_an_image_itself_out() -> None:
    generator = torch.Generator().manual_seed(0)
    student = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    teacher = F.normalize(torch.randn(5, 3, generator=generator), dim=1)

    def shares(vectors: Tensor, row: int) -> list[float]:
        others = [j for j in range(5) if j != row]
        values = [math.exp(float(vectors[row] @ vectors[j]) / 0.2) for j in others]
        return [value / sum(values) for value in values]

    expected = 0.0
    for row in range(5):
        pairs = zip(shares(teacher, row), shares(student, row), strict=True)
        expected += sum(p * math.log(p / q) for p, q in pairs) / 5

    assert float(relation_loss(student, teacher, temperature=0.2)) == pytest.approx(expected, rel=1e-5)
    turned = student @ torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    assert float(relation_loss(turned, student, temperature=0.2)) == pytest.approx(0, abs=1e-6)


def test_embedding_and_bit_losses_have_their_hand_values() -> None:
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(embedding_distance(student, teacher)) == 0.5

    logits, wanted = torch.tensor([[2.0, -1.0, 7.0]]), torch.tensor([[3.0, 0.5, 0.0]])
    expected = math.tanh(3) * math.log(1 + math.exp(-2)) + math.tanh(0.5) * math.log(1 + math.e)
    assert float(bit_loss(logits, wanted)) == pytest.approx(expected / 3)  # the undecided bit counts nothing


def test_gradient_reaches_the_student_and_never_the_teacher() -> None:
    student = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()
    teacher = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()

    for loss in (
        embedding_distance(student, teacher),
        relation_loss(student, teacher, temperature=0.1),
        bit_loss(student, teacher),
    ):
        student.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert float(student.grad.abs().sum()) > 0
        assert teacher.grad is None


def test_a_teacher_of_another_shape_is_refused_where_shapes_must_agree(
    teacher: ImageEncoder, batch: Batch
) -> None:
    narrow = EncoderConfig(trunk=STUDENT.trunk, code_hidden=32, dimension=64, code_bits=64)
    only_relations = distillation.Config(embedding_weight=0, code_weight=0)

    with pytest.raises(ValueError, match="the teacher's embeddings are 128-d, the student's 64-d"):
        DistillationTrainer(distillation.Config(), teacher, student=new_student(narrow))
    with pytest.raises(ValueError, match="the teacher's codes have 128 bits, the student's 64"):
        DistillationTrainer(distillation.Config(embedding_weight=0), teacher, student=new_student(narrow))
    step = DistillationTrainer(only_relations, teacher, student=new_student(narrow)).training_step(batch)
    assert set(step.logs) >= {"teacher_relation"}
    assert not {"teacher_embedding", "teacher_code"} & set(step.logs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_weight": -1.0}, "embedding_weight is -1.0, it must be >= 0"),
        ({"code_weight": -0.5}, "code_weight is -0.5"),
        ({"temperature": 0.0}, "temperature is 0.0, it must be above 0"),
    ],
)
def test_a_config_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation.Config(**options)
