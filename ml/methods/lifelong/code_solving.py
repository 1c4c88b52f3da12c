"""Solves for new codes while stored ones stay: discrete cyclic coordinate descent, and where it starts from.

Source: ADSH and DIHN (method file, section 5). Two deviations: sign(0) keeps the bit it had, so the objective cannot
rise, and new codes are solved against the stored codes too, which costs nothing by their statistics (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.methods.lifelong.labels import Centring, Floats, LabelRegistry, LabelSet
from ml.methods.lifelong.statistics import CodeStatistics, LabelTotals, Signs, label_totals
from ml.methods.lifelong.targets import code_targets

CANDIDATES = 1024  # random words tried for each new label set


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """Minimise over B (n, c) in {-1, +1}: sum_ij (c T_ij - u_i . b_j)^2 + alpha * sum (u_j - b_j)^2 + constant.

    linear (n, c): c * T^T U + alpha * U_own, U_own the row's own output where it is among the samples, else zeros.
    gram (c, c): U^T U.
    """

    linear: Floats
    gram: Floats

    def objective(self, codes: Signs) -> float:
        """Up to the constant."""
        wide = codes.astype(np.float64)
        return float(((wide @ self.gram) * wide).sum() - 2 * (wide * self.linear).sum())

    def solved(self, codes: Signs, *, sweeps: int) -> Signs:
        """`codes` after at most `sweeps` rounds over all bits; stops when none has flipped."""
        wide = codes.astype(np.float64)
        for _ in range(sweeps):
            before = wide.copy()
            for bit in range(wide.shape[1]):
                rest = self.linear[:, bit] - wide @ self.gram[:, bit] + wide[:, bit] * self.gram[bit, bit]
                wide[:, bit] = np.where(rest == 0, wide[:, bit], np.sign(rest))
            if np.array_equal(before, wide):
                break
        return wide.astype(np.int8)


def code_problem(
    outputs: Floats,
    sample_rows: Floats,
    own: Floats,
    rows: Floats,
    centring: Centring,
    *,
    alpha: float,
    stored: LabelTotals | None = None,
) -> CodeProblem:
    """outputs U (m, c) of samples with label rows (m, L); rows (n, L): of the items to be coded, own (n, c): their
    outputs, zeros where an item is no sample. stored: codes that stay, which count as further samples.
    """
    bits = outputs.shape[1]
    label_outputs = sample_rows.T @ outputs  # (L, c): T^T U without forming T
    linear = centring.scale * rows @ label_outputs + centring.shift * outputs.sum(axis=0)
    gram = outputs.T @ outputs
    if stored is not None and stored.items:
        linear = linear + code_targets(stored, rows, centring)
        gram = gram + stored.gram
    return CodeProblem(linear=bits * linear + alpha * own, gram=gram)


def first_codewords(
    stored: CodeStatistics,
    registry: LabelRegistry,
    counts: Sequence[tuple[LabelSet, int]],
    centring: Centring,
    *,
    seed: int,
    sweeps: int = 3,
) -> dict[LabelSet, Signs]:
    """A codeword (c,) for each label set with its number of new items: a stored one keeps its own, a new one gets
    one from labels alone, one after another.

    Of CANDIDATES random words the one whose inner products with all words so far come nearest to what labels ask
    for, improved bit by bit. A cold start from random codes never recovers: targets are near zero then, the
    outputs too, and the code step keeps what it finds (method file, section 8).
    """
    rng = np.random.default_rng(seed)
    known, given = stored.cleaned(), stored.codewords()
    words = {labels: given[labels] for labels, _ in counts if labels in given}
    for labels, items in counts:
        if labels in words:
            continue
        drawn = rng.choice(np.array([-1, 1], np.int8), size=(CANDIDATES, stored.code_bits))
        word = drawn[0]
        if known.items:
            totals = label_totals(known, registry)
            linear = stored.code_bits * code_targets(totals, registry.rows([labels]), centring)
            wide = drawn.astype(np.float64)
            cost = ((wide @ totals.gram) * wide).sum(axis=1) - 2 * wide @ linear[0]
            problem = CodeProblem(linear, totals.gram)
            word = problem.solved(drawn[[int(cost.argmin())]], sweeps=sweeps)[0]
        words[labels] = word
        known.add([labels] * items, np.repeat(word[None], items, axis=0))
    return words
