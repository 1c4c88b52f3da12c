"""Words for codes that are stored already: a text head taught the code of what each text says, from nothing.

Ours. Length, rate and what is left out of a text were chosen with queries that training had not heard. Of 57 grocery
categories, taught with one text to a category and the names of categories beside 10 categories of other goods, each
name alone came nearest to the codeword of its own; so did 98 % of names in the plural, 81 to 86 % with a letter
missing from the longest word and 91 to 95 % among five words that say nothing (three seeds, codes of the shipped
version). Of 31 products of the other goods that were left out, 97 to 100 % of texts did, and 68 to 71 % of titles.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ml.data.sampling import Batch
from ml.losses.fixed_codes import own_code_loss
from ml.methods.lifelong.analytic import rarity
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.lesson import Texts
from ml.methods.lifelong.statistics import CodeStatistics, Signs
from ml.methods.lifelong.text_targets import spoken_codes
from ml.methods.lifelong.training import fit_config
from ml.models.text import TextConfig, TextEncoder
from ml.training.loop import Progress, StepOutput, fit

Hashed = NDArray[np.float32]

EPOCHS, STEPS, BATCH = 10, 100, 64  # of drawn texts: what it takes does not depend on how many there are
LEARNING_RATE = 1e-2
DROPPED = 0.5  # of a text's words and pieces of words, others each time


def with_words(
    heads: CrossModalHeads,
    texts: Texts,
    statistics: CodeStatistics,
    *,
    words: int,
    config: LifelongConfig,
    seed: int,
    on_epoch: Callable[[Progress], None] = lambda _progress: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> CrossModalHeads:
    """`heads` with a text head that gives each of `texts`, of width `words`, the code of what it says by the
    statistics of stored codes; the image head is the same, bit for bit. A text head they have is not looked at:
    nothing stored depends on it. Texts that say what no stored code is of are left out. The same seed gives the same
    bytes.

    Raises ValueError when widths differ or no text is left, FitCancelled.
    """
    if texts.hashed.shape[1] != words:
        raise ValueError(f"hashed texts are {texts.hashed.shape[1]} wide, expected {words}")
    targets = spoken_codes(statistics, texts.sets) if len(texts) else np.zeros((0, 1), np.int8)
    rows = np.flatnonzero(targets.any(axis=1))
    if not len(rows):
        raise ValueError(
            f"none of {len(texts)} texts says what a stored code is of: there is nothing to teach"
        )
    spoken = Texts(texts.hashed[rows], [texts.sets[row] for row in rows.tolist()])
    torch.manual_seed(seed)
    shape = TextConfig(buckets=words, hidden=config.text_hidden, code_bits=statistics.code_bits)
    result = fit(
        _WordTrainer(TextEncoder(shape), targets[rows]),
        _TextStream(spoken, config, seed),
        replace(fit_config(config, is_update=False), epochs=EPOCHS, learning_rate=LEARNING_RATE, patience=0),
        on_epoch=on_epoch,
        is_cancelled=is_cancelled,
    )
    taught = copy.deepcopy(heads)
    taught.text = cast("TextEncoder", result.encoder)
    return taught.eval().requires_grad_(requires_grad=False)


class _TextStream:
    """Batches of drawn texts, half of what each says left out; labels are their rows. Rare label sets are drawn more
    often. An epoch depends on (seed, its number) alone.
    """

    steps_per_epoch = STEPS

    def __init__(self, texts: Texts, config: LifelongConfig, seed: int) -> None:
        self.hashed, self.seed = texts.hashed, seed
        counts = rarity(texts.sets, config.rarity_exponent)
        self.shares = counts / counts.sum()

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """STEPS batches of BATCH texts, drawn with replacement."""
        rng = np.random.default_rng([self.seed, epoch])
        for rows in rng.choice(len(self.hashed), size=(STEPS, BATCH), p=self.shares):
            heard = _partly(self.hashed[rows], rng)
            yield Batch(images=torch.from_numpy(heard), labels=torch.from_numpy(rows))


def _partly(hashed: Hashed, rng: np.random.Generator) -> Hashed:
    """Hashed texts (B, V) with a share of their buckets emptied, of L2 norm 1 again; as they are where nothing would
    be left.
    """
    heard = hashed * (rng.random(hashed.shape, dtype=np.float32) >= DROPPED)
    norms = np.linalg.norm(heard, axis=1, keepdims=True)
    return np.where(norms > 0, heard / np.where(norms > 0, norms, 1), hashed).astype(np.float32)


class _WordTrainer:
    """Fits ml.training.loop.Trainer: a text head against codes that do not move."""

    def __init__(self, encoder: TextEncoder, targets: Signs) -> None:
        self._encoder, self._targets = encoder.train(), torch.from_numpy(targets).float()

    def module(self) -> TextEncoder:
        """The text head is all that is optimised."""
        return self._encoder

    def encoder(self) -> TextEncoder:
        """The live text head."""
        return self._encoder

    def start_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def training_step(self, batch: Batch) -> StepOutput:
        """Mean of (f - b)^2 over texts and bits."""
        loss = own_code_loss(torch.tanh(self._encoder(batch.images)), self._targets[batch.labels])
        return StepOutput(loss=loss, logs={"text": float(loss.detach())})
