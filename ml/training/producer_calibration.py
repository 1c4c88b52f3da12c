"""One calibration per producer of entries, such that a gallery of several producers treats them alike.

Fitted to each producer apart, probabilities rank newer entries first: they are told apart better, and so are surer of
themselves. Here the newest producer is calibrated as it would be alone, and the best log-odds of an older one are
brought level with its: as wide a spread over queries, easy and hard ones, and, in a gallery of which it made one half
at random, as large a share of the best answers as it has of the relevant entries (`compatibility.old_shares`). That is
for encoders that passed for compatible: entries that compare badly are ranked among good ones all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.two_stage import CodedSet
from ml.protocol import Calibration
from ml.training.calibration import (
    MIXES,
    TOP,
    Floats,
    Fusion,
    Similarities,
    calibration_of,
    fit_fusion,
)

Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
_DRAWS = 4  # of a random half; its other half counts too


@dataclass(frozen=True, slots=True)
class Asked:
    """Q queries of the new encoder. labels (Q,): equal ones are relevant, a negative one is relevant to nothing.

    unseen (Q,): of classes that no encoder was trained on but are in the gallery; may be all False. groups: one name
    each, such as the pack's; every group counts alike in what may be called strong. own (Q,): the gallery row of
    the query's own picture, as if it were not there; -1 for none, and None where none has one.
    """

    queries: CodedSet
    labels: Labels
    unseen: Flags
    groups: tuple[str, ...]
    own: Labels | None = None

    def __post_init__(self) -> None:
        sizes = len(self.queries), len(self.labels), len(self.unseen), len(self.groups)
        if len(set(sizes)) > 1 or self.unseen.all():
            raise ValueError(
                f"{sizes[0]} queries with {sizes[1]} labels, {sizes[2]} flags and {sizes[3]} groups, "
                f"{int((~self.unseen).sum())} of them of trained classes: need one each, and trained classes"
            )


def producer_calibrations(
    asked: Asked,
    gallery_labels: Labels,
    producers: Mapping[str, CodedSet],
    *,
    newest: str = "self",
    reading: Calibration | None = None,
    mixes: Sequence[float] = MIXES,
    is_cautious: bool = False,
    seed: int = 0,
) -> dict[str, Calibration]:
    """One calibration for each of `producers`: the same N images, labels (N,), as each of them encoded them.

    That of `newest` is what `calibrate` gives for it alone, or `reading`, when it is calibrated already. Thresholds and
    pool sizes are each producer's own, found as
    `calibrate` does; without unseen queries the known ones with their own class hidden serve as those without an
    answer. mixes, is_cautious: as for `fit_fusion`. seed: of the random halves. Raises ValueError on sizes that do not
    match, without `newest`, and for a producer whose entries do not compare, which it names.
    """
    _check(gallery_labels, producers, newest)
    reference = _Views.of(asked, gallery_labels, producers[newest])
    own = (
        fit_fusion(reference.known, reference.unseen, is_cautious=is_cautious, mixes=mixes)
        if reading is None
        else Fusion(reading.intercept, reading.code_weight, reading.embedding_weight)
    )
    level = _Level(reference, own, _halves(len(gallery_labels), seed), is_cautious)
    calibrations = {}
    for name, entries in producers.items():
        if name == newest and reading is not None:
            calibrations[name] = reading
            continue
        views = reference if name == newest else _Views.of(asked, gallery_labels, entries)
        try:
            fusion = own if name == newest else level.beside(views, mixes)
        except ValueError as error:
            raise ValueError(f"producer {name!r}: {error}") from error
        calibrations[name] = calibration_of(fusion, views.known, views.unknown, views.groups)
    return calibrations


class _Views(NamedTuple):
    """Of one producer: queries of trained classes, of unseen ones, those without an answer (and their groups), all."""

    known: Similarities
    unseen: Similarities
    unknown: Similarities
    groups: tuple[str, ...]
    every: Similarities

    @classmethod
    def of(cls, asked: Asked, gallery_labels: Labels, entries: CodedSet) -> Self:
        relevant = (asked.labels[:, None] == gallery_labels) & (asked.labels >= 0)[:, None]
        every = Similarities(
            code=asked.queries.signs @ entries.signs.T / np.float32(entries.signs.shape[1]),
            cosine=asked.queries.embeddings @ entries.embeddings.T,
            relevant=relevant,
        )
        if asked.own is not None:
            queries = np.flatnonzero(asked.own >= 0)
            at = queries, asked.own[queries]
            every.code[at] = every.cosine[at] = -1
            relevant[at] = False
        open_rows = np.flatnonzero(asked.unseen if asked.unseen.any() else ~asked.unseen)
        groups = tuple(asked.groups[row] for row in open_rows)
        others = _rows(every, open_rows)
        return cls(_rows(every, np.flatnonzero(~asked.unseen)), others, _hidden(others), groups, every)


class _Level(NamedTuple):
    """The newest producer's reading, and what an older one's has to come level with."""

    reference: _Views
    newest: Fusion
    halves: Sequence[Flags]
    is_cautious: bool

    def beside(self, views: _Views, mixes: Sequence[float]) -> Fusion:
        """By the producer's own mix of similarities: right after a promotion the gallery is all its own."""
        own = fit_fusion(views.known, views.unseen, is_cautious=self.is_cautious, mixes=mixes)
        return self._levelled(views, _mix(own))

    def _levelled(self, views: _Views, mix: float) -> Fusion:
        """Of k best answers, an older producer's j-th best entry is one if it beats the newest's (k + 1 - j)-th, so it
        takes half of all places when what is added is the median of what each needs. Half of the relevant
        entries are its own, too, for each random half counts with its complement.
        """
        answerable = views.every.relevant.any(axis=1)
        mixed = (1 - mix) * views.every.code[answerable] + mix * views.every.cosine[answerable]
        odds = _odds(self.newest, self.reference.every)[answerable]
        old = np.stack([_best(mixed[:, half]) for half in self.halves], dtype=np.float64)
        new = np.stack([_best(odds[:, ~half]) for half in self.halves], dtype=np.float64)
        scale = float(new.std() / old.std())
        shift = float(np.median(new[..., ::-1] - scale * old))
        return Fusion(shift, scale * (1 - mix), scale * mix)


def _halves(size: int, seed: int) -> list[Flags]:
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(_DRAWS):
        drawn = np.zeros(size, np.bool_)
        drawn[rng.permutation(size)[: size // 2]] = True
        halves += [drawn, ~drawn]
    return halves


def _best(odds: Floats) -> Floats:
    """(Q, N) -> (Q, TOP) the highest, highest first."""
    return -np.sort(np.partition(-odds, TOP - 1, axis=1)[:, :TOP], axis=1)


def _odds(fusion: Fusion, pairs: Similarities) -> Floats:
    """Log-odds, where probabilities would have reached 1."""
    return fusion.intercept + fusion.code_weight * pairs.code + fusion.embedding_weight * pairs.cosine


def _mix(fusion: Fusion) -> float:
    return round(fusion.embedding_weight / (fusion.code_weight + fusion.embedding_weight), 6)


def _rows(pairs: Similarities, rows: Labels) -> Similarities:
    return Similarities(pairs.code[rows], pairs.cosine[rows], pairs.relevant[rows])


def _hidden(pairs: Similarities) -> Similarities:
    """As if the queries' own classes were not in the gallery."""
    code, cosine = (np.where(pairs.relevant, np.float32(-1), found) for found in (pairs.code, pairs.cosine))
    return Similarities(code, cosine, np.zeros_like(pairs.relevant))


def _check(gallery_labels: Labels, producers: Mapping[str, CodedSet], newest: str) -> None:
    if newest not in producers:
        raise ValueError(f"producers are {sorted(producers)}: {newest!r}, the newest, is not among them")
    sizes = {name: len(entries) for name, entries in producers.items()}
    if set(sizes.values()) != {len(gallery_labels)}:
        raise ValueError(
            f"{len(gallery_labels)} labels, but entries are {sizes}: the same images by each producer"
        )
    if len(gallery_labels) < 2 * TOP:
        raise ValueError(f"the gallery has {len(gallery_labels)} entries, it needs {2 * TOP} to be halved")
