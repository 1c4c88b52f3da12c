"""Distillation: a student encoder also learns to answer as a frozen, larger teacher does (Hinton et al., 2015).

Three things are handed down, each with a weight: where an image lies (cosine to the teacher's embedding), how
the images of a batch lie to one another (the softened similarities of SEED, arXiv 2101.04731, with the batch
in the place of its queue), and on which side of zero each code bit falls. The student's own loss stays as it
is: with all three weights at 0 this is its plain training, bit for bit. The teacher sees the same augmented
images as the student, at the student's size.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.data.sampling import Batch
from ml.models.encoder import ImageEncoder
from ml.training.loop import StepOutput, Trainer
from ml.training.watching import watched_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How much the teacher counts beside the student's own loss."""

    embedding_weight: float = 1.0  # of 1 - cosine to the teacher's embedding, >= 0; needs equal D
    relation_weight: float = 1.0  # of the batch similarities, >= 0; D may differ
    code_weight: float = 0.5  # of the code bits, >= 0; needs equal L
    temperature: float = 0.1  # softens the batch similarities, cosine units, > 0

    def __post_init__(self) -> None:
        for name in ("embedding_weight", "relation_weight", "code_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be >= 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}, it must be above 0")

    @property
    def is_active(self) -> bool:
        """False when nothing is handed down."""
        return self.embedding_weight + self.relation_weight + self.code_weight > 0


def embedding_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, D), (B, D), both unit L2 norm -> scalar, mean of 1 - cosine, in [0, 2]."""
    return (1 - (student * teacher.detach()).sum(dim=1)).mean()


def relation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mean over the batch of KL(teacher || student) between softmax(cosine to every other image / t), in nats.

    student: (B, D). teacher: (B, D'), receives no gradient. Both unit L2 norm, B >= 2; D' may differ from D.
    Source: SEED, eq. 4-6, without its queue. An image's similarity to itself is left out.
    """
    wanted = F.log_softmax(_to_others(teacher.detach()) / temperature, dim=1)
    found = F.log_softmax(_to_others(student) / temperature, dim=1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def bit_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, L) code logits of both -> scalar, mean logistic loss of the student's logits on the teacher's bits.

    Each bit counts |tanh(teacher logit)|: what the teacher left undecided is not imitated. The teacher
    receives no gradient.
    """
    decided = torch.tanh(teacher.detach())
    return (decided.abs() * F.softplus(-decided.sign() * student)).mean()


class DistillationTrainer:
    """Trains what `student` trains, with the teacher's answers added to its loss."""

    def __init__(self, config: Config, teacher: ImageEncoder, *, student: Trainer) -> None:
        """student: the trainer of an ImageEncoder, not compiled. The teacher is copied; the copy is frozen.

        Raises ValueError when the teacher's outputs do not fit the student's under this config.
        """
        learner = student.encoder()
        if not isinstance(learner, ImageEncoder):
            raise TypeError(f"the student trains a {type(learner).__name__}, expected an ImageEncoder")
        _check_fit(config, teacher, learner)
        self.config, self.student, self._learner = config, student, learner
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)
        self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def training_step(self, batch: Batch) -> StepOutput:
        """The student's loss plus what the teacher hands down."""
        if not self.config.is_active:
            return self.student.training_step(batch)
        config = self.config
        output, logits, embeddings = watched_step(self.student, self._learner, batch)
        with torch.no_grad():
            wanted_logits, wanted_embeddings = self.teacher(batch.images)
        loss, logs = output.loss, dict(output.logs)
        with torch.autocast(batch.images.device.type, enabled=False):  # cosines need float32
            if config.embedding_weight > 0:
                part = embedding_distance(embeddings, wanted_embeddings)
                loss = loss + config.embedding_weight * part
                logs["teacher_embedding"] = float(part.detach())
            if config.relation_weight > 0:
                part = relation_loss(embeddings, wanted_embeddings, temperature=config.temperature)
                loss = loss + config.relation_weight * part
                logs["teacher_relation"] = float(part.detach())
            if config.code_weight > 0:
                part = bit_loss(logits, wanted_logits)
                loss = loss + config.code_weight * part
                logs["teacher_code"] = float(part.detach())
        return StepOutput(loss=loss, logs=logs)

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins."""
        self.student.start_epoch(epoch)

    def module(self) -> nn.Module:
        """What the student optimises; the teacher is no part of it, nor of a checkpoint."""
        return self.student.module()

    def encoder(self) -> nn.Module:
        """The live (not averaged) student encoder."""
        return self.student.encoder()


def _to_others(embeddings: Tensor) -> Tensor:
    """(B, D) -> (B, B - 1) inner products of each row with every other one, in order."""
    count = len(embeddings)
    flat = (embeddings @ embeddings.T).flatten()
    return flat[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def _check_fit(config: Config, teacher: ImageEncoder, student: ImageEncoder) -> None:
    theirs, ours = teacher.config, student.config
    if theirs.trunk.channels != ours.trunk.channels:
        raise ValueError(
            f"the teacher reads {theirs.trunk.channels} channels, the student {ours.trunk.channels}"
        )
    if config.embedding_weight > 0 and theirs.dimension != ours.dimension:
        raise ValueError(
            f"the teacher's embeddings are {theirs.dimension}-d, the student's {ours.dimension}-d: "
            "embedding_weight must be 0"
        )
    if config.code_weight > 0 and theirs.code_bits != ours.code_bits:
        raise ValueError(
            f"the teacher's codes have {theirs.code_bits} bits, the student's {ours.code_bits}: "
            "code_weight must be 0"
        )
