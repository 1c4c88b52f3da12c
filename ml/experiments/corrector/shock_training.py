"""Training beside a cache, with a shock midway: what the watch says of it, and what is chosen from then on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ml.data.sampling import Batch
from ml.experiments.data import Dataset, few
from ml.experiments.ledger import Value
from ml.methods.corrector.catalogue import Catalogue
from ml.methods.corrector.config import JointConfig, Selection
from ml.methods.corrector.joint import CorrectedCache
from ml.methods.corrector.selection import selected
from ml.methods.corrector.training import CatalogueNegatives, CatalogueNegativesTrainer
from ml.models.encoder import TwoHeaded
from ml.training.loop import FitConfig as LoopConfig
from ml.training.loop import Logs, fit

_FEATURES, _DIMENSION = 128, 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at before and after the shock: probes of serving, and steps of training, of `batch` queries
    each against `per_class` pictures of every class.
    """

    looks: int = 5
    steps: int = 1_300
    shock: int = 600  # the last step before it
    batch: int = 32
    per_class: int = 1_000


class PictureEncoder(TwoHeaded):
    """(B, 1, S, S) float pixels through one hidden layer: small, so that what is watched is soon trained."""

    def __init__(self, pixels: int, *, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(_FEATURES, code_hidden=8, code_bits=8, dimension=_DIMENSION)
        self.layer = nn.Linear(pixels, _FEATURES)

    def features(self, inputs: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, F)."""
        return F.gelu(self.layer(inputs.flatten(1)))


@dataclass(frozen=True, slots=True)
class Pictures:
    """A catalogue's pixels (N, 1, S, S) float about 0, and labels (N,); its own items are the queries."""

    pixels: Tensor
    labels: Tensor

    def encoder(self, seed: int) -> PictureEncoder:
        """Untrained."""
        return PictureEncoder(self.pixels[0].numel(), seed=seed)


def pictures_of(dataset: Dataset, per_class: int) -> Pictures:
    """At most `per_class` training pictures of each class."""
    images = few(dataset, per_class).train.images
    return Pictures(images.pixels.float() / 255 - 0.3, images.labels)


Shock = Callable[[CorrectedCache, int], None]


def none(_policy: CorrectedCache, _seed: int) -> None:
    """The control."""


def shuffled(policy: CorrectedCache, seed: int) -> None:
    """Each item gets another one's stale embedding: nothing is to be learned from it any more."""
    order = torch.randperm(len(policy.cache), generator=torch.Generator().manual_seed(seed))
    policy.cache = policy.cache[order]


def replaced(policy: CorrectedCache, seed: int) -> None:
    """The encoder's weights become those of another, untrained one."""
    encoder = policy.catalogue.encoder
    assert isinstance(encoder, PictureEncoder)
    encoder.load_state_dict(PictureEncoder(encoder.layer.in_features, seed=seed + 1_000).state_dict())


class Watched:
    """The policy of the method, set beside the stale cache once its map is given up."""

    def __init__(self, policy: CorrectedCache) -> None:
        self.policy = policy
        self.alerted, self.unlike_stale, self.compared = -1, 0, 0  # step of the alert, and steps since then

    def choose(self, queries: Tensor, labels: Tensor, step: int) -> Tensor:
        """As Policy.choose."""
        chosen = self.policy.choose(queries, labels, step)
        if self.policy.watch.alert is not None:
            self.alerted = step if self.alerted < 0 else self.alerted
            stale = selected(
                queries, labels, self.policy.cache, self.policy.catalogue.labels,
                selection=self.policy.selection, generator=torch.Generator(),
            )  # fmt: skip
            self.compared += 1
            self.unlike_stale += int(not torch.equal(chosen, stale))
        return chosen

    def learn(self, ids: Tensor, trained: Tensor) -> Logs:
        """As Policy.learn."""
        return self.policy.learn(ids, trained)

    def ratios(self) -> list[float]:
        """What the map left of the stale error, look by look."""
        return [report.ratio for report in self.policy.watch.reports]

    def constants(self) -> list[float]:
        """What one vector for all would have left of it."""
        return [report.constant / report.staleness for report in self.policy.watch.reports]


class _Queries:
    """Batches for one epoch of `plan.steps`, with a shock between two of them."""

    def __init__(self, pictures: Pictures, plan: Plan, seed: int, shock: Callable[[], None]) -> None:
        self.pictures, self.plan, self.seed, self.shock = pictures, plan, seed, shock
        self.steps_per_epoch = plan.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The same for the same seed."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        for step in range(1, self.plan.steps + 1):
            if step == self.plan.shock + 1:
                self.shock()
            rows = torch.randint(len(self.pictures.labels), (self.plan.batch,), generator=generator)
            yield Batch(images=self.pictures.pixels[rows], labels=self.pictures.labels[rows])


def trained_through(pictures: Pictures, plan: Plan, joint: JointConfig, seed: int, shock: Shock) -> Watched:
    """Training beside a cache of the encoder's first embeddings, with a shock midway."""
    encoder = pictures.encoder(seed)
    catalogue = Catalogue(pictures.pixels.__getitem__, pictures.labels, encoder)
    cache = catalogue.everything(purpose="measured")
    watched = Watched(CorrectedCache(catalogue, cache, Selection(), joint, seed=seed))
    trainer = CatalogueNegativesTrainer(encoder, CatalogueNegatives(catalogue, watched, seed=seed))
    queries = _Queries(pictures, plan, seed, partial(shock, watched.policy, seed))
    fit(trainer, queries, LoopConfig(epochs=1, learning_rate=1e-3, warmup_epochs=0))
    return watched


def judged_cache(found: Watched, control: Watched, plan: Plan, joint: JointConfig) -> dict[str, Value]:
    """(c) The alert must come within `checks` looks, training go on with the stale cache, the control stay silent.

    `_by_stale_error`: whether the looks up to then would have said so if judged by the stale error alone.
    """
    delay = found.alerted - plan.shock if found.alerted >= 0 else -1
    caught = (
        0 < delay <= joint.checks * joint.check_every
        and found.compared > 0
        and not found.unlike_stale
        and control.alerted < 0
    )
    looked = plan.shock // joint.check_every
    after = found.ratios()[looked : looked + joint.checks]
    by_stale_error = len(after) == joint.checks and min(after) > joint.helps_below
    return {
        "cache_caught": int(caught), "cache_delay": delay, "cache_compared": found.compared,
        "cache_unlike_stale": found.unlike_stale, "cache_by_stale_error": int(by_stale_error),
        "cache_ratios": _words(found.ratios()), "cache_constants": _words(found.constants()),
        "cache_control_alerts": int(control.alerted >= 0), "cache_control_ratios": _words(control.ratios()),
        "cache_control_constants": _words(control.constants()),
    }  # fmt: skip


def described_jump(found: Watched, plan: Plan, joint: JointConfig) -> dict[str, Value]:
    """(d) After how many steps the map was given up (-1: it was not), and at a look helped again (-1: at none)."""
    looks = [joint.check_every * (place + 1) - plan.shock for place in range(len(found.ratios()))]
    helped = [
        steps
        for steps, report in zip(looks, found.policy.watch.reports)
        if steps > 0 and report.helps(joint.helps_below)
    ]
    delay = found.alerted - plan.shock if found.alerted >= 0 else -1
    return {
        "jump_delay": delay, "jump_recovery": helped[0] if helped else -1, "jump_ratios": _words(found.ratios()),
        "jump_constants": _words(found.constants()),
    }  # fmt: skip


def _words(ratios: Sequence[float]) -> str:
    return " ".join(f"{ratio:.3f}" for ratio in ratios)
