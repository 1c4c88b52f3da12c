"""Trains a new encoder whose queries find what an old one stored: its own losses, an alignment, and held codes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.losses.fixed_codes import StoredPairs, mean_output_loss, own_code_loss
from ml.methods.compatible.alignment import Alignment, Seen
from ml.models.encoder import TwoHeaded
from ml.training.loop import StepOutput, Trainer
from ml.training.watching import watched_step

OWN_CODE_WEIGHT, BALANCE_WEIGHT = 0.1, 0.01  # beside the pair loss, as in a lifelong increment


@dataclass(frozen=True, slots=True)
class HeldCodes:
    """The stored codes that a code head is held to. pairs: its loss against all of them, row c for an image of class c.

    words (C, L): each class's majority code in {-1, +1}, zeros for a class without any.
    """

    pairs: StoredPairs
    words: Tensor

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, L) code logits, (B,) labels, -1 left out -> scalar. Source: method file lifelong_hashing, section 6.2."""
        kept = labels >= 0
        if not bool(kept.any()):
            return logits.sum() * 0
        outputs, own = torch.tanh(logits[kept]), labels[kept]
        loss = self.pairs.loss(outputs, own) + OWN_CODE_WEIGHT * own_code_loss(outputs, self.words[own])
        return loss + BALANCE_WEIGHT * mean_output_loss(outputs)


class CompatibleTrainer:
    """Trains what `student` trains, held to an old space. A stopped fit goes on bit for bit where its alignment does.

    The student's own code loss should be off where codes are held: it would pull bits elsewhere.
    """

    def __init__(
        self,
        student: Trainer,
        alignment: Alignment,
        *,
        old: Callable[[Tensor], Tensor] | None = None,
        codes: HeldCodes | None = None,
        code_weight: float = 1.0,
    ) -> None:
        """old: inputs -> (B, D_o) unit embeddings of the frozen old encoder, for alignments that ask for them."""
        encoder = student.encoder()
        if not isinstance(encoder, TwoHeaded):
            raise TypeError(f"the student trains a {type(encoder).__name__}, expected a TwoHeaded encoder")
        self.student, self.alignment, self.codes, self.code_weight = student, alignment, codes, code_weight
        self._encoder, self._old = encoder, old
        self._module = nn.ModuleDict({"student": student.module(), "alignment": alignment.module()})

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins."""
        self.student.start_epoch(epoch)
        self.alignment.start_epoch(epoch)

    def training_step(self, batch: Batch) -> StepOutput:
        """The student's loss, the alignment's, and the held codes'."""
        output, logits, embeddings = watched_step(self.student, self._encoder, batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            loss, logs = self.alignment.loss(
                Seen(embeddings, batch.labels, lambda: self._old_of(batch.images))
            )
            total, told = output.loss + loss, {**output.logs, **logs}
            if self.codes is not None and self.code_weight > 0:
                held = self.codes.loss(logits, batch.labels)
                total = total + self.code_weight * held
                told["held_codes"] = float(held.detach())
        return StepOutput(loss=total, logs=told)

    def module(self) -> nn.Module:
        """What the student optimises, and the alignment's own part."""
        return self._module

    def encoder(self) -> TwoHeaded:
        """The live (not averaged) encoder."""
        return self._encoder

    @torch.no_grad()
    def _old_of(self, images: Tensor) -> Tensor:
        if self._old is None:
            raise ValueError("this alignment compares with the old encoder's embeddings: give `old`")
        return self._old(images)
