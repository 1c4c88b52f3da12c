"""Hard negatives from the whole catalogue beside any other training: the corrected cache in the product's trainer.

The targets of a step are encoded as they would be stored, with running batch-norm statistics: a second batch of nothing
but hard negatives would shift those statistics, and what the loss saw is what the corrector has to predict.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.data.sampling import Batch
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.config import HardNegatives, Selection
from ml.methods.corrector.joint import CorrectedCache
from ml.methods.corrector.keeping import State, as_tensor, from_tensor, kept, restore
from ml.methods.corrector.training import CatalogueNegatives
from ml.models.encoder import TwoHeaded
from ml.training.loop import StepOutput, Trainer
from ml.training.watching import watched_step


class HardNegativesTrainer:
    """Trains what `student` trains, with the loss against chosen targets of the whole catalogue added to its own.

    Goes on from a checkpoint bit for bit: cache, corrector and draws are kept in the state of `module()`.
    """

    def __init__(
        self, config: HardNegatives, pixels: Tensor, labels: Tensor, *, student: Trainer, seed: int
    ) -> None:
        """pixels (N, C, S0, S0) uint8 and labels (N,) int64: the catalogue. Images without label (-1) never ask and
        are negatives to everyone. student: the trainer of a TwoHeaded encoder that is not compiled.
        """
        encoder = student.encoder()
        if not isinstance(encoder, TwoHeaded):
            raise TypeError(f"the student trains a {type(encoder).__name__}, expected a TwoHeaded encoder")
        self.config, self.student, self.seed = config, student, seed
        self.catalogue = Catalogue(self._pictures, labels, encoder)
        self.policy: CorrectedCache | None = None  # once there is a cache
        self.negatives: CatalogueNegatives | None = None
        self._pixels, self._encoder, self._epoch, self._size = pixels, encoder, 0, pixels.shape[-1]
        self._module = _WithState(student.module(), self._state, self._restore)

    def start_epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) begins."""
        self._epoch = epoch
        self.student.start_epoch(epoch)

    def training_step(self, batch: Batch) -> StepOutput:
        """The student's loss plus config.weight times that of the images that ask; they ask at their own size."""
        if self._epoch < self.config.from_epoch:
            return self.student.training_step(batch)
        output, _, embeddings = watched_step(self.student, self._encoder, batch)
        asking = asking_rows(batch.labels, self.config.queries)
        if not len(asking):
            return output
        self._size = batch.images.shape[-1]
        was_training = self._encoder.training
        self._encoder.eval()
        try:
            negatives = self.negatives or self._begin()
            loss, logs = negatives.loss(embeddings[asking], batch.labels[asking])
        finally:
            self._encoder.train(was_training)
        named = {f"negatives_{name}": value for name, value in logs.items()}
        return StepOutput(loss=output.loss + self.config.weight * loss, logs=output.logs | named)

    def module(self) -> nn.Module:
        """What the student optimises: the corrector has an optimiser of its own."""
        return self._module

    def encoder(self) -> TwoHeaded:
        """The live (not averaged) encoder."""
        return self._encoder

    def _begin(self) -> CatalogueNegatives:
        """With a cache of what the encoder makes of every picture now, at the size of this epoch."""
        with torch.autocast(self._pixels.device.type, enabled=False):
            cache = self.catalogue.everything().half()
        return self._over(cache)[0]

    def _over(self, cache: Tensor) -> tuple[CatalogueNegatives, CorrectedCache]:
        selection = Selection(count=self.config.count)
        self.policy = CorrectedCache(self.catalogue, cache, selection, self.config.joint(), seed=self.seed)
        self.negatives = CatalogueNegatives(self.catalogue, self.policy, seed=self.seed)
        return self.negatives, self.policy

    def _pictures(self, ids: Tensor) -> Tensor:
        """(n,) -> (n, C, S, S) in [0, 1], whole and unchanged but for their size."""
        pictures = self._pixels[ids].float() / 255.0
        if pictures.shape[-1] != self._size:
            pictures = F.interpolate(pictures, (self._size, self._size), mode="bilinear", antialias=True)
        return pictures.contiguous(memory_format=torch.channels_last)

    def _state(self) -> State:
        if self.negatives is None or self.policy is None:
            return {}
        return kept(self.negatives, self.policy)

    def _restore(self, state: State) -> None:
        self.negatives = self.policy = None
        if state:
            restore(*self._over(state["cache"]), state)


def asking_rows(labels: Tensor, most: int) -> Tensor:
    """(B,) labels -> (n,) rows of them that ask, n <= most: evenly spaced among those with a label, for the images of
    a class stand together in a batch.
    """
    known = torch.nonzero(labels >= 0).flatten()
    count = min(most, len(known))
    return known[torch.arange(count) * len(known) // max(1, count)]


class _WithState(nn.Module):
    """The student's module, and in its state what else a stopped fit needs to go on: no parameter, so not optimised."""

    def __init__(self, student: nn.Module, read: Callable[[], State], write: Callable[[State], None]) -> None:
        super().__init__()
        self.student = student
        self._read, self._write = read, write

    def get_extra_state(self) -> Tensor:
        """One uint8 tensor."""
        return as_tensor(self._read())

    def set_extra_state(self, state: Tensor) -> None:
        """As `get_extra_state` gave it."""
        self._write(from_tensor(state))
