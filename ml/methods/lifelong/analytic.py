"""Mode `analytic`: the last layer of a code head re-solved by ridge regression over its frozen hidden layer.

Each item's target is its label set's codeword. Gram matrices of hidden activations add up, so an update equals one
joint fit on everything ever learned, in any order, without replay and without a learning rate, when the base was
fitted the same way and every label set comes whole in one increment (`rarity` counts an increment's items). Over a
head trained by gradient it is the least change of outputs on stored items that makes room for the new ones (recursive
least squares). Source: probes, section 1 (**), in a form of ours: the Gram matrix is all that is kept, since the
layer itself holds what the targets were.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.methods.lifelong.labels import LabelSet
from ml.models.encoder import CodeHead

Floats = NDArray[np.float64]
REFERENCE = 30  # items of a label set whose items count once
_CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class RidgeLayer:
    """weights (H + 1, c), the last row the bias; gram (H + 1, H + 1): sum of h h^T over the items it was fitted on."""

    weights: Floats
    gram: Floats

    @classmethod
    def unfitted(cls, weights: Floats) -> "RidgeLayer":
        """A layer that has seen nothing: the ridge pulls towards these weights."""
        return cls(weights, np.zeros((len(weights), len(weights))))

    def fitted(
        self, hidden: Floats, targets: Floats, counts: Floats, *, ridge: float, sign: Literal[1, -1] = 1
    ) -> "RidgeLayer":
        """With items of hidden activations (N, H + 1), targets (N, c) and weights `counts` (N,) learned too; sign -1
        forgets them again.

        The new weights W' minimise ridge * |W' - W_0|^2 + sum over all items of count * |h W' - t|^2, W_0 being the
        layer before anything was fitted.
        """
        eye = ridge * np.eye(len(self.gram))
        weighed = (hidden * counts[:, None]).T
        gram = np.asarray(self.gram + sign * weighed @ hidden, np.float64)
        moments = (self.gram + eye) @ self.weights + sign * weighed @ targets
        return RidgeLayer(np.asarray(np.linalg.solve(gram + eye, moments), np.float64), gram)


def rarity(sets: Sequence[LabelSet], exponent: float) -> Floats:
    """(N,) how much each item counts: (30 / items of its label set among these) ** exponent, so that a category of
    a few photos is not drowned by one of thousands.
    """
    sizes = Counter(sets)
    return np.array([(REFERENCE / sizes[labels]) ** exponent for labels in sets], np.float64)


@torch.no_grad()
def hidden_of(head: CodeHead, inputs: NDArray[np.float32]) -> Floats:
    """(N, any) -> (N, H + 1): the activations before the last layer, and a 1 for its bias."""
    hidden_layers = cast("nn.Sequential", head.layers[:-1])
    parts = [
        hidden_layers(torch.from_numpy(inputs[start : start + _CHUNK])).double().numpy()
        for start in range(0, len(inputs), _CHUNK)
    ]
    hidden = np.concatenate(parts)
    return np.hstack([hidden, np.ones((len(hidden), 1))])


def _linear(head: CodeHead) -> nn.Linear:
    return cast("nn.Linear", head.layers[-1])


def last_layer(head: CodeHead) -> Floats:
    """(H + 1, c): weights and bias."""
    linear = _linear(head)
    return np.vstack([linear.weight.detach().double().numpy().T, linear.bias.detach().double().numpy()])


def with_last_layer(head: CodeHead, weights: Floats) -> CodeHead:
    """A copy of the head with (H + 1, c) `weights` and bias in its last layer."""
    changed = copy.deepcopy(head)
    linear = _linear(changed)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights[:-1].T))
        linear.bias.copy_(torch.from_numpy(weights[-1]))
    return changed
