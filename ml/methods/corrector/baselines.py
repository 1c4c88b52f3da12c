"""The other policies: what a corrected cache is compared with, each counted by the same catalogue."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.closed_form import Floats
from ml.methods.corrector.config import Selection
from ml.methods.corrector.pairs import Pairs
from ml.methods.corrector.selection import selected
from ml.models.corrector import Corrector
from ml.training.loop import Logs


class InBatch:
    """Nothing from the catalogue: only what the other queries of the batch have as positives."""

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:  # noqa: ARG002 - Policy
        """(B, 0)."""
        return torch.empty(len(queries), 0, dtype=torch.int64)

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:  # noqa: ARG002 - Policy
        """Nothing."""
        return {}


class CachedTargets:
    """Targets by similarity to a cache that is encoded anew before every `period`-th step (ANCE's index refresh).

    period 0: never, the stale cache. period 1: before every step, the exhaustive oracle.
    """

    def __init__(
        self, catalogue: Catalogue, cache: Tensor, selection: Selection, *, seed: int, period: int = 0
    ) -> None:
        if period < 0:
            raise ValueError(f"period is {period}, it must be >= 1, or 0 for never")
        self.catalogue, self.selection, self.period = catalogue, selection, period
        self.view = cache
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """As Policy.choose."""
        if self.period and step % self.period == 0:
            self.renew(step)
        return selected(
            queries,
            labels,
            self.view,
            self.catalogue.labels,
            selection=self.selection,
            generator=self.generator,
        )

    def renew(self, step: int) -> None:  # noqa: ARG002 - the oldest rows go by it below
        """Bring the view up to date: N extra encodes."""
        self.view = self.catalogue.everything().to(self.view.dtype)

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:  # noqa: ARG002 - Policy
        """Nothing."""
        return {}


class UniformTargets(CachedTargets):
    """k targets of other labels, all equally likely."""

    def __init__(self, catalogue: Catalogue, cache: Tensor, selection: Selection, *, seed: int) -> None:
        # Gumbel-top-k at an inverse temperature of 0 is a uniform draw without replacement.
        uniform = replace(selection, sampling="gumbel", inverse_temperature=0.0)
        super().__init__(catalogue, cache, uniform, seed=seed)


class NegativeCache(CachedTargets):
    """Targets drawn by Gumbel-max on cached scores; what was encoded for the loss is written back, and before every
    step `renewed` items, those whose turn it is, are encoded anew. Source: method file corrector, [S-7].
    """

    def __init__(
        self, catalogue: Catalogue, cache: Tensor, selection: Selection, *, seed: int, renewed: int
    ) -> None:
        if not 0 <= renewed <= len(catalogue):
            raise ValueError(f"renewed is {renewed}, allowed 0 to {len(catalogue)}")
        drawn = replace(selection, sampling="gumbel")
        super().__init__(catalogue, cache.clone(), drawn, seed=seed, period=1 if renewed else 0)
        self.renewed = renewed

    def renew(self, step: int) -> None:
        """The next `renewed` items in turn: as many extra encodes."""
        ids = ((step - 1) * self.renewed + torch.arange(self.renewed)) % len(self.catalogue)
        self.view[ids] = self.catalogue.fresh(ids).to(self.view.dtype)

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        """Write back what was encoded."""
        self.view[ids] = self.catalogue.settled(ids, trained).to(self.view.dtype)
        return {}


class Landmarks(CachedTargets):
    """The stale cache moved as `count` landmarks have moved: before the first and every `period`-th step these are
    encoded anew (as many extra encodes) and a map is solved from stale to fresh.

    solve: closed_form.ridge_map with its ridge (an affine map, the linear stand-in for a Nystrom update) or
    closed_form.rotation_map (Procrustes).
    """

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Tensor,
        selection: Selection,
        solve: Callable[[Pairs], Floats],
        *,
        seed: int,
        period: int,
        count: int = 512,
    ) -> None:
        super().__init__(catalogue, cache, selection, seed=seed, period=period)
        self.cache, self.solve = cache, solve
        self.landmarks = torch.randperm(len(catalogue), generator=self.generator)[:count]

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """As Policy.choose."""
        if step == 1 and self.period != 1:
            self.renew(step)
        return super().choose(queries, labels, step)

    def renew(self, step: int) -> None:  # noqa: ARG002 - CachedTargets
        """Solve the map anew and move the whole cache by it."""
        stale = self.cache[self.landmarks].float().numpy()
        corrector = Corrector(self.cache.shape[1], hidden=1)
        corrector.set_affine(self.solve(Pairs(stale, self.catalogue.fresh(self.landmarks).float().numpy())))
        self.view = torch.from_numpy(corrector.corrected(self.cache.numpy()))
