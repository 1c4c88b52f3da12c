"""Wrong labels in a lifelong experiment: who gets them, and what stays true."""

from collections import Counter

import numpy as np
import pytest

from ml.experiments.lifelong.noise import mislabelled
from tests.ml.experiments.shelves import BASE, shelves


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_share_of_each_stages_entries_is_described_as_another_class_of_that_stage(share: float) -> None:
    chain = shelves().chain
    wrong = mislabelled(chain, share)
    labels, entries = chain.images.labels(), chain.gallery
    said = [one.categories[-1] for one in wrong.images.described]
    true = [one.categories[-1] for one in chain.images.described]
    changed = [row for row in range(len(labels)) if said[row] != true[row]]
    base = entries[labels[entries] < BASE]
    assert len(changed) == round(share * len(base))  # the last stage has one class: there is no other one
    assert set(changed) <= set(base.tolist())
    assert {said[row] for row in changed} <= {true[row] for row in base}
    np.testing.assert_array_equal(wrong.images.labels(), labels)
    assert all(changed.count(row) <= 1 for row in changed)
    firsts = {int(labels[row]): int(row) for row in entries[::-1]}
    assert not set(changed) & set(firsts.values())


def test_the_same_entries_are_mislabelled_every_time() -> None:
    chain = shelves().chain
    first, again = (mislabelled(chain, 0.5).images.described for _ in range(2))
    assert Counter(first) == Counter(again)
    assert first == again
