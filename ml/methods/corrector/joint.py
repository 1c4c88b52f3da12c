"""A cache that is never encoded anew: a corrector learns, beside the encoder, what its embeddings would be by now."""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from ml.losses.truncated_softmax import drift_loss, logit_matching_loss
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.config import FitConfig, JointConfig, Selection
from ml.methods.corrector.fitting import Fitted, fit_corrector, optimiser_of
from ml.methods.corrector.pairs import Pairs
from ml.methods.corrector.probe import NO_DRIFT, ProbeReport, Watch, probed
from ml.methods.corrector.selection import selected
from ml.models.corrector import Corrector
from ml.training.loop import Logs


class CorrectedCache:
    """A policy (ml.methods.corrector.training): targets by similarity to the corrected cache.

    With config.remembered, items that the loss encoded in the last steps stand in the view as they were encoded: what
    is hard now was mostly hard a moment ago. The map goes on from the raw cache, which is never mixed with newer rows.

    The probe is drawn from the whole catalogue, and its items teach the map like any other when they are chosen.
    `watch.alert` says when the probe found three times in a row that correcting does not help; from then on the stale
    cache is used as it is and nothing is learned.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Tensor,
        selection: Selection,
        config: JointConfig,
        *,
        seed: int,
        corrector: Corrector | None = None,
    ) -> None:
        """cache: (N, D) unit L2 norm, float16 or float32; it is never changed. corrector: from `warmed_up`, when the
        cache is of another model than the encoder is at its start; by default the identity.
        """
        if len(cache) != len(catalogue):
            raise ValueError(f"the cache has {len(cache)} rows, the catalogue {len(catalogue)} items")
        self.catalogue, self.cache, self.selection, self.config = catalogue, cache, selection, config
        self.corrector = corrector or Corrector(cache.shape[1], hidden=config.hidden, seed=seed)
        self.optimiser = optimiser_of(self.corrector, config.learning_rate, config.weight_decay)
        self.watch = Watch(below=config.helps_below, checks=config.checks)
        self.generator = torch.Generator().manual_seed(seed)
        self.probe = torch.randperm(len(catalogue), generator=self.generator)[: config.probe].sort().values
        self.view = cache
        self.queries = cache[:0].float()  # those of the step
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.remembered)

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """As Policy.choose. The view is corrected anew every config.refresh steps, the probe looked at between."""
        self.queries = queries
        if step % self.config.check_every == 0:
            self.watch.look(self.report())
        if self.watch.alert is not None:
            self.view = self.cache
        elif (step - 1) % self.config.refresh == 0:
            self.view = self._corrected()
        return selected(
            queries,
            labels,
            self.view,
            self.catalogue.labels,
            selection=self.selection,
            generator=self.generator,
        )

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        """As Policy.learn: steps of the corrector alone, on what the loss encoded and a uniform share."""
        if self.watch.alert is not None:
            return {"fallen_back": 1.0}
        count = round(self.config.uniform_share * len(ids))
        uniform = torch.randint(len(self.catalogue), (count,), generator=self.generator)
        fresh = self.catalogue.settled(ids, trained)
        if count:
            fresh = torch.cat([fresh, self.catalogue.fresh(uniform)])
        encoded = torch.cat([ids, uniform])
        stale = self.cache[encoded].float()
        losses = []
        for _ in range(self.config.steps):
            corrected = self.corrector(stale)
            loss = drift_loss(corrected, fresh)
            losses.append(float(loss.detach()))
            if losses[-1] < NO_DRIFT:  # Adam would make steps of their full length out of rounding
                break
            if self.config.matching_weight:
                loss = loss + self.config.matching_weight * self._matching(corrected, fresh)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        if self.config.remembered:
            self._remember(encoded, fresh.to(self.cache.dtype))
        return {"drift": losses[0], "fallen_back": 0.0}

    def _matching(self, corrected: Tensor, fresh: Tensor) -> Tensor:
        beta = self.selection.inverse_temperature
        return logit_matching_loss(self.queries, corrected, fresh, inverse_temperature=beta)

    def _remember(self, ids: Tensor, fresh: Tensor) -> None:
        self.recent.append((ids, fresh))
        if self.view is self.cache:
            self.view = self.cache.clone()
        self.view[ids] = fresh

    def _corrected(self) -> Tensor:
        """(N, D) the whole cache by the map as it stands, what is remembered laid over it, the newest last."""
        view = torch.from_numpy(self.corrector.corrected(self.cache.numpy()))
        for ids, fresh in self.recent:
            view[ids] = fresh
        return view

    def report(self) -> ProbeReport:
        """The corrector as it stands on the permanent probe, encoded now (an extra)."""
        stale = self.cache[self.probe].float().numpy()
        pairs = Pairs(stale, self.catalogue.fresh(self.probe).float().numpy())
        return probed(self.corrector.corrected(stale), pairs)


def warmed_up(
    catalogue: Catalogue, cache: Tensor, config: FitConfig, *, pairs: int = 5_000, seed: int = 0
) -> Fitted:
    """A map fitted to uniformly drawn items that are encoded now, a fifth of them the probe: counts them as extra.

    For a cache of another model before training, and for any once training has ended and the encoder stands still
    (method file, section 4, steps 2 and 4). pairs: 5 at least, the whole catalogue at most.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(catalogue), generator=generator)[:pairs]
    if len(rows) < 5:
        raise ValueError(f"{len(rows)} pairs, at least 5 are needed: four to fit and one to judge by")
    drawn = Pairs(cache[rows].float().numpy(), catalogue.fresh(rows).float().numpy())
    order, held_out = np.arange(len(rows)), len(rows) // 5
    return fit_corrector(drawn.picked(order[held_out:]), drawn.picked(order[:held_out]), config, seed=seed)
