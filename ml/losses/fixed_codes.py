"""Losses that hold an encoder to codes that are stored and do not move."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """All that the squared pair loss needs to know of n stored codes b_j and their labels, divided by n.

    For U label sets that samples may carry: targets (U, c) = mean_j T_uj b_j, squares (U,) = mean_j T_uj^2, and
    gram (c, c) = mean_j b_j b_j^T. Made by ml.methods.lifelong.targets.
    """

    targets: Tensor
    squares: Tensor
    gram: Tensor

    def loss(self, outputs: Tensor, sets: Tensor) -> Tensor:
        """(B, c) outputs f in [-1, 1], (B,) rows of `targets` -> mean over samples i and stored j of
        (T_ij - f_i . b_j / c)^2, which is never negative but for rounding.

        Its cost does not depend on n. Source: method file lifelong_hashing, section 6.3.
        """
        bits = outputs.shape[1]
        outputs = outputs.to(self.gram.dtype)
        linear = (outputs * self.targets[sets]).sum(dim=1)
        quadratic = ((outputs @ self.gram) * outputs).sum(dim=1)
        return (self.squares[sets] - 2 / bits * linear + quadratic / bits**2).mean()


def direct_pair_loss(outputs: Tensor, codes: Tensor, target: Tensor) -> Tensor:
    """The same from every single pair, the oracle: outputs (B, c), codes (n, c), target T (B, n)."""
    return (target - outputs @ codes.T / outputs.shape[1]).square().mean()


def pair_likelihood_loss(outputs: Tensor, words: Tensor, shares: Tensor, similar: Tensor) -> Tensor:
    """Mean of log(1 + exp theta) - s theta with theta = f . w / 2: the likelihood form of the pair loss.

    outputs (B, c); words (U, c) distinct stored codes with their shares (U,) of all items; similar s (B, U) in
    [0, 1]. Its cost grows with U. Source: method file, section 6.2 (as in DPSH and DCMH).
    """
    theta = outputs @ words.T / 2
    return ((F.softplus(theta) - similar * theta) @ shares).mean()


def own_code_loss(outputs: Tensor, codes: Tensor) -> Tensor:
    """Mean of (f - b)^2 over samples and bits: (B, c) outputs, (B, c) each sample's own code.

    A bit of 0 is none: a sample without a code of its own, words that no item carries together, is not pulled.
    """
    return ((outputs - codes).square() * codes.abs()).mean()


def mean_output_loss(outputs: Tensor) -> Tensor:
    """Squared norm of the mean output / c: zero when every bit splits the batch. Quadratic, and so bounded below."""
    return outputs.mean(dim=0).square().mean()


def alignment_loss(images: Tensor, texts: Tensor) -> Tensor:
    """Mean of (f_image - f_text)^2 over pairs and bits: (B, c) each, row i of both of one item; 0 without a pair."""
    return (images - texts).square().mean() if len(images) else torch.zeros((), dtype=images.dtype)
