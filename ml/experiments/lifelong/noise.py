"""Wrong labels: a share of the entries is described as another class, as it is wherever people label photos."""

from dataclasses import replace

import numpy as np

from ml.experiments.data import ClassChain
from ml.experiments.lifelong.bases import Place
from ml.experiments.lifelong.trunks import Features

SHARES = (0.1, 0.2, 0.4)
SEED = 0


def with_wrong_labels(place: Place, share: float) -> Place:
    """The place with `share` of each stage's entries described as another class of that stage. What queries are judged
    by stays true; the trunk, which never saw the wrong labels, is the same.
    """

    def read() -> Features:
        features = place.features
        return replace(features, chain=mislabelled(features.chain, share))

    run = replace(place.features_run, identity={**place.features_run.identity, "wrong labels": share})
    return replace(place, features_run=run, read=read)


def mislabelled(chain: ClassChain, share: float) -> ClassChain:
    """With other descriptions of some entries, drawn by seed 0. The first entry of each class keeps its own: its text
    stands for the class. A stage of one class keeps all of its labels.
    """
    rng = np.random.default_rng(SEED)
    labels, described = chain.images.labels(), list(chain.images.described)
    own = labels[chain.gallery]
    firsts = {int(label): int(chain.gallery[place]) for place, label in reversed(list(enumerate(own)))}
    for first, end in zip((0, *chain.ends), chain.ends, strict=False):
        if end - first < 2:
            continue  # there is no other class to be taken for
        entries = chain.gallery[(own >= first) & (own < end)]
        free = [row for row in entries.tolist() if row != firsts[int(labels[row])]]
        for row in rng.permutation(free)[: round(share * len(entries))]:
            others = [label for label in range(first, end) if label != labels[row]]
            described[row] = chain.images.described[firsts[int(rng.choice(others))]]
    return replace(chain, images=replace(chain.images, described=tuple(described)))
