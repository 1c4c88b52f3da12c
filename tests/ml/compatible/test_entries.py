"""Aligned to stored entries: what the loss is, how entries move with prototypes, and that it is off where not asked."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.losses.prototype_alignment import entry_alignment_loss
from ml.methods.compatible.config import Compatibility
from ml.methods.compatible.old_space import OldSpace, StoredEntries
from ml.methods.compatible.perturbation import PrototypeAlignment
from tests.ml.compatible.crowds import units
from tests.ml.compatible.spaces import at, seen

CLASSES, DIMENSION = 6, 8
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, -1, -1])  # class 5 has no entry
ROWS = units(len(LABELS), DIMENSION, seed=0, dtype=torch.float32)
ENTRIES = StoredEntries(ROWS, LABELS)
OLD = OldSpace.of(ROWS, LABELS, CLASSES)
SHOWN = [0, 1, 2, 3, 4, 5, -1, 2]


def images(*, seed: int = 1) -> Tensor:
    return units(len(SHOWN), DIMENSION, seed=seed, dtype=torch.float32)


def by_a_loop(embeddings: Tensor, entries: Tensor, labels: list[int], temperature: float) -> float:
    """Image by image, entry by entry."""
    losses = []
    for image, label in zip(embeddings, labels, strict=True):
        shares = {-1: 0.0} | dict.fromkeys(range(CLASSES), 0.0)
        for entry, own in zip(entries, LABELS.tolist(), strict=True):
            shares[own] += math.exp(float(image @ entry) / temperature)
        if label >= 0 and shares[label] > 0:
            every = sum(share for own, share in shares.items() if own >= 0)
            losses.append(-math.log(shares[label] / every))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_the_loss_towards_entries_is_that_of_a_loop(temperature: float) -> None:
    found = entry_alignment_loss(images(), ROWS, LABELS, torch.tensor(SHOWN), temperature=temperature)
    assert float(found) == pytest.approx(by_a_loop(images(), ROWS, SHOWN, temperature), rel=1e-5)


def test_one_near_entry_of_the_class_is_as_good_as_all() -> None:
    """Cosines 1, -1 and 0 at temperature 1: e + 1/e of e + 1/e + 1."""
    entries, labels = torch.tensor([at(0), at(180), at(90)]), torch.tensor([0, 0, 1])
    image = torch.tensor([at(0)])
    found = entry_alignment_loss(image, entries, labels, torch.tensor([0]), temperature=1.0)
    assert float(found) == pytest.approx(-math.log((math.e + 1 / math.e) / (math.e + 1 / math.e + 1)))
    near = entry_alignment_loss(image, entries, labels, torch.tensor([0]), temperature=0.01)
    assert float(near) == pytest.approx(0, abs=1e-6)


def test_entries_receive_no_gradient_and_images_without_one_of_their_class_neither() -> None:
    rows, entries = images().requires_grad_(), ROWS.clone().requires_grad_()
    loss = entry_alignment_loss(rows, entries, LABELS, torch.tensor(SHOWN), temperature=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert entries.grad is None
    assert rows.grad is not None
    assert rows.grad.any(dim=1).tolist() == [True, True, True, True, True, False, False, True]


@pytest.mark.parametrize("labels", [[-1, -1], [5, -1], [5, 5]])
def test_a_batch_without_an_entry_of_its_classes_gives_zero_and_zero_gradients(labels: list[int]) -> None:
    rows = images()[:2].requires_grad_()
    loss = entry_alignment_loss(rows, ROWS, LABELS, torch.tensor(labels), temperature=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert rows.grad is not None
    assert torch.equal(rows.grad, torch.zeros(2, DIMENSION))


def test_what_entries_without_a_class_are_changes_nothing() -> None:
    named, shown = LABELS >= 0, torch.tensor(SHOWN)
    turned = torch.where(named[:, None], ROWS, images()[:1])
    own, other, without = (
        entry_alignment_loss(images(), rows, labels, shown, temperature=0.1)
        for rows, labels in ((ROWS, LABELS), (turned, LABELS), (ROWS[named], LABELS[named]))
    )
    assert torch.equal(own, other)
    torch.testing.assert_close(own, without)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0, it must be above 0"):
        entry_alignment_loss(images(), ROWS, LABELS, torch.tensor(SHOWN), temperature=0)


def moved(alignment: PrototypeAlignment) -> Tensor:
    """Entry by entry: as far as its class's prototype has gone."""
    rows = []
    for entry, label in zip(ROWS, LABELS.tolist(), strict=True):
        gone = alignment.perturbed[label] - OLD.prototypes[label] if label >= 0 else torch.zeros(DIMENSION)
        rows.append(F.normalize(entry + gone, dim=0))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["none", "ndpp"])
def test_entries_are_moved_as_their_classes_prototypes_are(kind: Any) -> None:
    config = Compatibility(
        kind=kind, strength=1.0, weight=3.0, entry_weight=0.5, entry_temperature=0.2, temperature=0.1
    )
    alignment = PrototypeAlignment(OLD, config, entries=ENTRIES)
    alignment.start_epoch(0)
    assert torch.equal(alignment.perturbed, OLD.prototypes) == (kind == "none")
    loss, logs = alignment.loss(seen(images(), SHOWN))
    expected = by_a_loop(images(), moved(alignment), SHOWN, 0.2)
    assert logs["entries"] == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(3 * logs["alignment"] + 0.5 * expected, rel=1e-5)
    unmoved = by_a_loop(images(), ROWS, SHOWN, 0.2)
    assert (abs(unmoved - expected) < 1e-5) == (kind == "none")


def test_a_weight_without_entries_is_refused_and_entries_without_a_weight_count_nothing() -> None:
    with pytest.raises(ValueError, match=r"entry_weight is 0\.5, but no stored entries are given"):
        PrototypeAlignment(OLD, Compatibility(entry_weight=0.5))
    losses = []
    for entries in (None, ENTRIES):
        alignment = PrototypeAlignment(OLD, Compatibility(), entries=entries)
        alignment.start_epoch(0)
        loss, logs = alignment.loss(seen(images(), SHOWN))
        assert "entries" not in logs
        losses.append(loss)
    assert torch.equal(*losses)


def test_where_entries_do_not_count_a_config_is_written_as_before_there_were_any() -> None:
    off, on = Compatibility().as_values(), Compatibility(entry_weight=1.0).as_values()
    assert not {"entry_weight", "entry_temperature"} & set(off)
    assert off == Compatibility(entry_temperature=0.7).as_values()
    assert on == off | {"entry_weight": 1.0, "entry_temperature": 0.1}


@pytest.mark.parametrize("values", [{"entry_weight": -0.1}, {"entry_temperature": 0.0}])
def test_settings_of_entries_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        Compatibility(**values)  # type: ignore[arg-type]
