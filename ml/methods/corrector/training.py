"""Training against targets from the whole catalogue, whichever policy chooses them."""

from typing import Protocol

import torch
from torch import Tensor, nn

from ml.data.sampling import Batch
from ml.losses.truncated_softmax import truncated_softmax_loss
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.selection import forbidden
from ml.models.encoder import TwoHeaded
from ml.training.loop import Logs, StepOutput


class Policy(Protocol):
    """Chooses the targets of a step. Steps count from 1."""

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """Before the step: (B, D) query embeddings without gradient, (B,) their labels -> (B, k) ids of the catalogue,
        -1 for none.
        """
        ...

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        """After the loss: (U,) ids and (U, D) what the loss encoded for them."""
        ...


class CatalogueNegatives:
    """The loss of a batch of queries against what a policy chose, to be trained alone or beside other losses.

    Queries and targets come from one encoder, so its gradient is the sum of both paths. The policy's own parameters
    get none of it: what they give is used to choose, and the loss sees fresh embeddings only.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        policy: Policy,
        *,
        inverse_temperature: float = 20.0,
        ceiling: float = float("inf"),
        seed: int = 0,
    ) -> None:
        """inverse_temperature: beta of the truncated softmax, > 0. ceiling: as Selection.ceiling, for what was chosen
        for other queries. seed: of the positives.
        """
        self.catalogue, self.policy, self.inverse_temperature = catalogue, policy, inverse_temperature
        self.ceiling = ceiling
        self.step = 0
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, queries: Tensor, labels: Tensor) -> tuple[Tensor, Logs]:
        """(B, D) unit embeddings of queries with gradient, (B,) known labels -> scalar in nats, and logs.

        Each query's positive is an item of its label, drawn; its negatives are all targets of the step that have
        another label, those chosen for other queries too. Source: method file corrector, section 4, steps 3 b to e.
        """
        self.step += 1
        device = queries.device.type
        with torch.autocast(device, enabled=False):  # the encoder alone may run in half precision
            chosen = self.policy.choose(queries.detach(), labels, self.step)
        positives = self.catalogue.positives(labels, self.generator)
        ids = torch.unique(torch.cat([positives, chosen[chosen >= 0]]))  # ascending
        targets = self.catalogue.trained(ids)
        own = torch.searchsorted(ids, positives)
        allowed = ~forbidden(labels, self.catalogue.labels[ids])
        with torch.autocast(device, enabled=False):
            allowed &= queries.detach() @ targets.detach().T <= self.ceiling
            allowed[torch.arange(len(own)), own] = True
            loss = truncated_softmax_loss(
                queries, targets, own, allowed, inverse_temperature=self.inverse_temperature
            )
            return loss, {"task": float(loss.detach()), **self.policy.learn(ids, targets)}


class CatalogueNegativesTrainer:
    """Fine-tunes an encoder that made a cache; fits ml.training.loop.Trainer. It trains in eval mode: with the batch
    statistics that the cache was made with, what the loss encodes is what would be stored, and costs no second pass.

    Policy and cache are no part of its checkpoint: a fit that was stopped starts anew, with a trainer made anew.
    """

    def __init__(self, encoder: TwoHeaded, negatives: CatalogueNegatives) -> None:
        if negatives.catalogue.encoder is not encoder:
            raise ValueError("the catalogue is encoded by another encoder than the one to be trained")
        self._encoder, self.negatives = encoder, negatives
        encoder.eval()

    def start_epoch(self, epoch: int) -> None:
        """Raises ValueError when steps were left out, as after a resume."""
        if epoch and not self.negatives.step:
            raise ValueError(f"epoch {epoch} follows none: this training does not go on from a checkpoint")

    def training_step(self, batch: Batch) -> StepOutput:
        """One step of the policy and the loss of one batch, whose labels are those of the catalogue."""
        _, queries = self._encoder(batch.images)
        loss, logs = self.negatives.loss(queries, batch.labels)
        return StepOutput(loss=loss, logs=logs)

    def module(self) -> nn.Module:
        """The encoder alone: a corrector has an optimiser of its own."""
        return self._encoder

    def encoder(self) -> TwoHeaded:
        """The live (not averaged) encoder."""
        return self._encoder
