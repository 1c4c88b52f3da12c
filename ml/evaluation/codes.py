"""How a set of codes is built: how far apart classes lie, and how much of its bits is used."""

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

PURE = 0.95  # share of a class that has to agree for a bit to tell it apart


def code_diagnostics(packed_codes: Codes, labels: Labels) -> dict[str, float]:
    """Measures of codes (N, L // 8) of entries with labels (N,) >= 0; NaN where one has no meaning.

    intra_class_distance, inter_class_distance: mean Hamming distance in bits over all pairs of different
    entries of one class, and of two classes; distance_ratio: the first over the second.
    bit_entropy: mean over bits of the entropy of a bit, in bits, [0, 1].
    class_information: mean over bits of the mutual information of a bit with the class, in bits, [0, 1];
    plugged in from counts, so a little high where classes are small.
    bit_correlation: mean of |Pearson correlation| over pairs of different bits that both vary, [0, 1].
    distinct_codes: different codes / N; codes_per_class: mean over classes of the different codes in it.
    separable_classes: share of classes that one bit tells from all others: it has one value in at least 95 %
    of the class and the other in at least 95 % of all other entries.
    separable_pairs: share of pairs of classes that one bit tells apart: it has one value in at least 95 % of
    one class and the other in at least 95 % of the other.
    Raises ValueError on shapes that do not match and on a negative label.
    """
    _check(packed_codes, labels)
    bits = np.unpackbits(packed_codes, axis=1)
    classes, members = np.unique(labels, return_inverse=True)
    sizes = np.bincount(members, minlength=len(classes))
    ones = np.zeros((len(classes), bits.shape[1]), np.int64)  # of each class and bit
    np.add.at(ones, members, bits)
    return {
        **_distances(ones, sizes),
        **_entropies(ones, sizes),
        "bit_correlation": _correlation(bits),
        **_distinct(packed_codes, members),
        **_separable(ones, sizes),
    }


def _distances(ones: Labels, sizes: Labels) -> dict[str, float]:
    """Pairs differ in a bit as often as a one meets a zero, so counts suffice."""
    count, total = int(sizes.sum()), ones.sum(axis=0)
    differing = int((total * (count - total)).sum())
    differing_inside = int((ones * (sizes[:, None] - ones)).sum())
    pairs, pairs_inside = count * (count - 1) // 2, int((sizes * (sizes - 1) // 2).sum())
    intra = _share(differing_inside, pairs_inside)
    inter = _share(differing - differing_inside, pairs - pairs_inside)
    return {
        "intra_class_distance": intra,
        "inter_class_distance": inter,
        "distance_ratio": _share(intra, inter),
    }


def _entropies(ones: Labels, sizes: Labels) -> dict[str, float]:
    count = int(sizes.sum())
    if not count:
        return {"bit_entropy": float("nan"), "class_information": float("nan")}
    entropy = _entropy(ones.sum(axis=0) / count)
    inside = (sizes / count) @ _entropy(ones / sizes[:, None])
    return {"bit_entropy": float(entropy.mean()), "class_information": float((entropy - inside).mean())}


def _entropy(share: Floats) -> Floats:
    """Bits of a coin that falls on one with probability `share`; any shape."""
    entropy = np.zeros_like(share)
    for side in (share, 1 - share):
        entropy -= side * np.log2(np.where(side > 0, side, 1))
    return entropy


def _correlation(bits: NDArray[np.uint8]) -> float:
    varying = bits[:, bits.min(axis=0, initial=1) < bits.max(axis=0, initial=0)]
    width = varying.shape[1]
    if width < 2:
        return float("nan")
    correlations = np.abs(np.corrcoef(varying, rowvar=False))
    return float((correlations.sum() - np.trace(correlations)) / (width * (width - 1)))


def _distinct(packed_codes: Codes, members: Labels) -> dict[str, float]:
    whole = len(np.unique(packed_codes, axis=0)) if len(packed_codes) else 0
    pairs = np.column_stack([members.astype(">u4").view(np.uint8).reshape(-1, 4), packed_codes])
    of_classes = len(np.unique(pairs, axis=0)) if len(pairs) else 0
    classes = int(members.max(initial=-1)) + 1
    return {
        "distinct_codes": _share(whole, len(packed_codes)),
        "codes_per_class": _share(of_classes, classes),
    }


def _separable(ones: Labels, sizes: Labels) -> dict[str, float]:
    classes = len(sizes)
    if classes < 2:
        return {"separable_classes": float("nan"), "separable_pairs": float("nan")}
    share = ones / sizes[:, None]
    others = (ones.sum(axis=0) - ones) / (sizes.sum() - sizes)[:, None]
    high, low = share >= PURE, share <= 1 - PURE
    alone = ((high & (others <= 1 - PURE)) | (low & (others >= PURE))).any(axis=1)
    apart = high.astype(np.int64) @ low.T.astype(np.int64) > 0
    return {
        "separable_classes": float(alone.mean()),
        "separable_pairs": float((apart | apart.T).sum() / (classes * (classes - 1))),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _check(packed_codes: Codes, labels: Labels) -> None:
    if packed_codes.ndim != 2 or packed_codes.dtype != np.uint8 or len(packed_codes) != len(labels):
        raise ValueError(
            f"codes are {packed_codes.dtype} {packed_codes.shape} with {len(labels)} labels, "
            "expected uint8 (N, L // 8) and (N,)"
        )
    if labels.min(initial=0) < 0:
        raise ValueError(f"labels start at {labels.min()}: entries without a class cannot be judged by class")
