"""The alignment: what its loss is, when prototypes are perturbed anew, from what, and how far by itself."""

import math
from dataclasses import replace as replaced
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ml.losses.prototype_alignment import Targets, prototype_alignment_loss
from ml.methods.compatible.alignment import in_old_space
from ml.methods.compatible.config import KINDS, Compatibility
from ml.methods.compatible.guard import Guard, angles_between
from ml.methods.compatible.neighbours import moved_cosines, neighbour_driven
from ml.methods.compatible.old_space import OldSpace
from ml.methods.compatible.optimised import Spreading, spread_displacements
from ml.methods.compatible.perturbation import PrototypeAlignment, automatic_strength
from tests.ml.compatible.crowds import crowded, space_of, units
from tests.ml.compatible.spaces import at, plane, seen

OLD = crowded(dtype=torch.float32)
EVERY = list(range(24))
FREE = Guard(largest_angle=90, margin=0, rare=0)
UNMOVED = [
    Compatibility(kind="none"),
    Compatibility(kind="ndpp", strength=0.0, new_strength=0.0),
    Compatibility(kind="odpp", spreading=Spreading(passes=0, further_passes=0)),
]
MOVED = [Compatibility(kind="ndpp", strength=1.0), Compatibility(kind="odpp")]


def shown(alignment: PrototypeAlignment, rows: Tensor, labels: list[int] | None = None) -> Tensor:
    """The loss of a batch, one image of each class where nothing else is said."""
    return alignment.loss(seen(rows, EVERY if labels is None else labels))[0]


def news(seed: int) -> Tensor:
    return units(24, 16, seed=seed, dtype=torch.float32)


def by_a_loop(embeddings: Tensor, targets: Targets, labels: list[int], temperature: float) -> float:
    """Section 4, image by image."""
    losses = []
    for f, label in zip(embeddings, labels, strict=True):
        if label < 0 or not targets.known[label]:
            continue
        own = math.exp(float(f @ targets.positives[label]) / temperature)
        rest = sum(
            math.exp(float(f @ row) / temperature)
            for j, row in enumerate(targets.negatives)
            if j != label and targets.known[j]
        )
        losses.append(-math.log(own / (own + rest)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("has_perturbed_negatives", [False, True])
def test_the_loss_is_that_of_a_loop_over_images(*, has_perturbed_negatives: bool) -> None:
    old = space_of(crowded().prototypes, [9] * 20 + [0] * 4)
    perturbed = F.normalize(old.prototypes + 0.3 * units(24, 16, seed=2), dim=1)
    targets = Targets(perturbed, perturbed if has_perturbed_negatives else old.prototypes, old.known)
    labels = [*range(24), -1, 3, -1]
    rows = units(27, 16, seed=3).requires_grad_()
    found = prototype_alignment_loss(rows, targets, torch.tensor(labels), temperature=0.05)
    assert float(found.detach()) == pytest.approx(by_a_loop(rows.detach(), targets, labels, 0.05), rel=1e-12)
    found.backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert not rows.grad[20:25].any()
    assert rows.grad[:20].any(dim=1).all()


def test_the_loss_of_two_orthogonal_classes_is_as_by_hand_and_leaves_old_prototypes_alone() -> None:
    rows = torch.eye(2).requires_grad_()
    positives, negatives = (torch.eye(2).requires_grad_() for _ in range(2))
    targets = Targets(positives, negatives, torch.tensor([True, True]))
    loss = prototype_alignment_loss(rows, targets, torch.tensor([0, 1]), temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(math.log(1 + math.exp(-2)))
    assert rows.grad is not None
    assert positives.grad is None
    assert negatives.grad is None


@pytest.mark.parametrize("labels", [[-1, -1], [23, -1], [23, 23]])
def test_a_batch_without_a_known_class_gives_zero_and_zero_gradients(labels: list[int]) -> None:
    old = space_of(OLD.prototypes, [9] * 23 + [0])
    for config in (*UNMOVED, *MOVED):
        alignment = PrototypeAlignment(old, config)
        alignment.start_epoch(0)
        rows = news(1)[:2].requires_grad_()
        found = shown(alignment, rows, labels)
        found.backward()  # type: ignore[no-untyped-call]
        assert float(found.detach()) == 0
        assert rows.grad is not None
        assert torch.equal(rows.grad, torch.zeros(2, 16))


def test_what_cannot_be_compared_is_refused() -> None:
    targets = Targets.plain(OLD.prototypes, OLD.known)
    with pytest.raises(ValueError, match="embeddings are 8-d, prototypes 16-d"):
        prototype_alignment_loss(news(1)[:, :8], targets, torch.arange(24), temperature=0.05)
    with pytest.raises(ValueError, match="temperature is 0, it must be above 0"):
        prototype_alignment_loss(news(1), targets, torch.arange(24), temperature=0)
    with pytest.raises(ValueError, match="new embeddings are 8-d, the old space 16-d"):
        in_old_space(news(1)[:, :8], 16)


def test_more_dimensions_than_the_old_space_has_are_cut_to_the_first_and_made_unit_again() -> None:
    rows = news(1)
    assert in_old_space(rows, 16) is rows
    torch.testing.assert_close(in_old_space(rows, 5), F.normalize(rows[:, :5], dim=1))


@pytest.mark.parametrize("has_perturbed_negatives", [False, True])
def test_moved_by_nothing_loss_and_gradient_are_prototype_bct_bit_for_bit(
    *, has_perturbed_negatives: bool
) -> None:
    found = []
    for config in (*UNMOVED, *MOVED):
        alignment = PrototypeAlignment(OLD, replaced(config, has_perturbed_negatives=has_perturbed_negatives))
        for epoch in range(3):
            alignment.start_epoch(epoch)
            rows = news(epoch).requires_grad_()
            loss = shown(alignment, rows)
            loss.backward()  # type: ignore[no-untyped-call]
        assert rows.grad is not None
        found.append((loss.detach(), rows.grad, torch.equal(alignment.perturbed, OLD.prototypes)))
    for loss, gradient, is_unmoved in found[1:3]:
        assert is_unmoved
        assert torch.equal(loss, found[0][0])
        assert torch.equal(gradient, found[0][1])
    for loss, _, is_unmoved in found[3:]:
        assert not is_unmoved
        assert not torch.equal(loss, found[0][0])


def test_positives_are_perturbed_and_negatives_only_when_asked_for() -> None:
    config = Compatibility(strength=1.0, temperature=0.1, weight=3.0)
    losses = []
    for has_perturbed_negatives in (False, True):
        alignment = PrototypeAlignment(OLD, replaced(config, has_perturbed_negatives=has_perturbed_negatives))
        alignment.start_epoch(0)
        negatives = alignment.perturbed if has_perturbed_negatives else OLD.prototypes
        targets = Targets(alignment.perturbed, negatives, OLD.known)
        loss, logs = alignment.loss(seen(news(1), EVERY))
        expected = by_a_loop(news(1), targets, EVERY, 0.1)
        assert float(loss) == pytest.approx(3 * expected, rel=1e-5)
        assert logs["alignment"] == pytest.approx(expected, rel=1e-5)
        angles = angles_between(OLD.prototypes, alignment.perturbed).rad2deg()
        assert logs["perturbed_degrees"] == pytest.approx(float(angles.mean()), rel=1e-5)
        losses.append(float(loss))
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def epochs_that_change(config: Compatibility, *, epochs: int) -> list[int]:
    """In which the prototypes are perturbed anew, the new ones turning all the time."""
    alignment, found = PrototypeAlignment(OLD, config), []
    for epoch in range(epochs):
        before = alignment.perturbed.clone()
        alignment.start_epoch(epoch)
        if not torch.equal(alignment.perturbed, before):
            found.append(epoch)
        shown(alignment, news(epoch))
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "ndpp"}, [0, 1, 2, 3, 4, 5, 6]),
        ({"kind": "ndpp", "warmup_epochs": 3}, [0, 3, 4, 5, 6]),
        ({"kind": "ndpp", "refresh_epochs": 3}, [0, 1, 4]),
        ({"kind": "odpp"}, [0, 1, 3, 5]),
        ({"kind": "odpp", "warmup_epochs": 2}, [0, 2, 4, 6]),
        ({"kind": "odpp", "refresh_epochs": 1, "warmup_epochs": 0}, [0, 1, 2, 3, 4, 5, 6]),
        ({"kind": "none"}, []),
    ],
)
def test_prototypes_are_perturbed_anew_when_it_is_time(values: dict[str, Any], expected: list[int]) -> None:
    config = Compatibility(
        new_strength=0.5, spreading=Spreading(threshold=0.3, passes=3, further_passes=3), **values
    )
    assert epochs_that_change(config, epochs=7) == expected


def test_while_new_prototypes_are_noise_old_neighbours_alone_push() -> None:
    config = Compatibility(strength=0.6, new_strength=0.9, warmup_epochs=2, guard=FREE, steady_degrees=180)
    alignment = PrototypeAlignment(OLD, config)
    count, pushed = alignment.neighbours, {"strength": 0.6, "new_strength": 0.9}
    assert count == 5
    shown(alignment, news(0))
    alone = neighbour_driven(OLD, None, **pushed, count=count)
    for epoch in (0, 1):
        alignment.start_epoch(epoch)
        torch.testing.assert_close(alignment.perturbed, alone)
    alignment.start_epoch(2)
    both = neighbour_driven(OLD, news(0), **pushed, count=count)
    torch.testing.assert_close(alignment.perturbed, both)
    assert float(angles_between(alone, both).rad2deg().mean()) > 1


def test_a_search_begins_with_all_passes_and_goes_on_with_few_from_where_it_was() -> None:
    spreading = Spreading(threshold=0.3, passes=12, further_passes=4, new_weight=2.0)
    config = Compatibility(kind="odpp", spreading=spreading, guard=FREE, steady_degrees=180)
    alignment = PrototypeAlignment(OLD, config, seed=3)
    alignment.start_epoch(0)
    first = spread_displacements(OLD, None, torch.zeros(24, 16), spreading, passes=12, seed=3 * 1_000_003)
    torch.testing.assert_close(alignment.perturbed, F.normalize(OLD.prototypes + first, dim=1))
    shown(alignment, news(0))
    alignment.start_epoch(1)
    further = spread_displacements(OLD, news(0), first, spreading, passes=4, seed=3 * 1_000_003 + 1)
    torch.testing.assert_close(alignment.perturbed, F.normalize(OLD.prototypes + further, dim=1))
    assert float((further - first).abs().max()) > 1e-3


def test_new_prototypes_follow_the_batches_that_show_their_class() -> None:
    alignment = PrototypeAlignment(plane(0, 90, 180), Compatibility(momentum=0.75))
    alignment.start_epoch(0)
    rows = torch.tensor([at(0), at(60), at(200), at(77)])
    shown(alignment, rows, [0, 0, 1, -1])
    new = alignment.state.new
    torch.testing.assert_close(new, torch.tensor([at(30), at(200), [0.0, 0.0]]))  # begun at the first mean
    shown(alignment, torch.tensor([at(120), at(120), at(120)]), [0, 0, 0])
    expected = F.normalize(0.75 * torch.tensor(at(30)) + 0.25 * torch.tensor(at(120)), dim=0)
    torch.testing.assert_close(new, torch.stack([expected, torch.tensor(at(200)), torch.zeros(2)]))
    before = new.clone()
    shown(alignment, rows[:1], [-1])
    assert torch.equal(new, before)


def test_a_sudden_turn_goes_half_of_the_way_and_a_first_look_at_new_prototypes_all() -> None:
    given: dict[str, Any] = {"strength": 0.5, "new_strength": 2.0, "guard": FREE}
    steady, free = (
        PrototypeAlignment(OLD, Compatibility(**given, steady_degrees=degrees)) for degrees in (0.1, 180)
    )
    for alignment in (steady, free):
        alignment.start_epoch(0)
        shown(alignment, news(0))
        alignment.start_epoch(1)
    assert torch.equal(steady.perturbed, free.perturbed)
    for alignment in (steady, free):
        alignment.state.new.copy_(news(1))
    before = steady.perturbed.clone()
    for alignment in (steady, free):
        alignment.start_epoch(2)
    torch.testing.assert_close(steady.perturbed, F.normalize(before + free.perturbed, dim=1))
    assert float(angles_between(before, free.perturbed).rad2deg().mean()) > 5


@pytest.mark.parametrize("kind", ["ndpp", "odpp"])
def test_where_nothing_new_is_learned_a_refresh_changes_nothing_however_far_the_wish_is_from_the_limits(
    kind: str,
) -> None:
    """What turns is what was allowed, not what was wished: else rare classes would creep back, refresh by refresh."""
    old = space_of(OLD.prototypes, [1, 2, 9, 9] * 6)
    spreading = Spreading(threshold=0.3, passes=150, further_passes=0)
    config = Compatibility(kind=kind, strength=3.0, new_strength=0.0, spreading=spreading, steady_degrees=2.0)  # type: ignore[arg-type]
    alignment = PrototypeAlignment(old, config)
    alignment.start_epoch(0)
    first = alignment.perturbed.clone()
    wish = neighbour_driven(old, None, strength=3.0, new_strength=0, count=5)
    assert kind == "odpp" or float(angles_between(wish, first).rad2deg().mean()) > 5
    for epoch in range(1, 6):
        alignment.start_epoch(epoch)
        assert torch.equal(alignment.perturbed, first)


@pytest.mark.parametrize("config", MOVED, ids=lambda config: config.kind)
def test_half_way_and_whole_prototypes_stay_within_the_guard(config: Compatibility) -> None:
    old = space_of(OLD.prototypes, [0, 1, 2, 3] * 6)
    alignment = PrototypeAlignment(old, replaced(config, strength=3.0, new_strength=3.0, steady_degrees=0.5))
    for epoch in range(5):
        alignment.start_epoch(epoch)
        assert float(angles_between(old.prototypes, alignment.perturbed).rad2deg().max()) < 20.001
        again = alignment.config.guard._owned(old, alignment.perturbed)
        torch.testing.assert_close(again, alignment.perturbed, atol=2e-3, rtol=0)
        assert torch.equal(alignment.perturbed[~old.known], old.prototypes[~old.known])
        shown(alignment, news(epoch))


def test_the_automatic_strength_is_what_half_of_the_classes_bear() -> None:
    old = crowded(groups=12, of=5)
    strength = automatic_strength(old, FREE, 5)
    room = torch.arccos(old.nearest()) / 2
    assert 0 < strength < 3.2
    for factor, share in ((0.999, 0.5), (1.0, None), (1.001, -0.5)):
        bears = float((torch.arccos(moved_cosines(old, factor * strength, 5)) <= room).double().mean())
        assert share is None or (bears >= share if share > 0 else bears <= -share)
    assert PrototypeAlignment(old, Compatibility(guard=FREE)).strength == strength
    assert PrototypeAlignment(old, Compatibility(guard=FREE, strength=0.25)).strength == 0.25
    assert PrototypeAlignment(old, Compatibility(neighbours=3)).neighbours == 3


def test_a_tighter_guard_means_less_strength_and_an_empty_space_the_most() -> None:
    old = crowded(groups=12, of=5)
    found = [automatic_strength(old, Guard(largest_angle=degrees), 5) for degrees in (2, 5, 10, 90)]
    assert found == sorted(found)
    moved = torch.arccos(moved_cosines(old, found[0], 5)).rad2deg()
    assert float(moved.median()) == pytest.approx(2, abs=0.1)
    assert automatic_strength(space_of(torch.eye(6)), Guard(), 5) == 3.2  # nobody is pushed by any strength
    assert automatic_strength(plane(0), Guard(), 5) == 0.0
    assert automatic_strength(space_of(torch.eye(3), [0, 0, 0]), Guard(), 5) == 0.0


@pytest.mark.parametrize("counts", [[9, 0, 9], [0, 0, 0], [0, 1, 0]])
@pytest.mark.parametrize("config", [*UNMOVED, *MOVED, Compatibility()], ids=lambda config: config.kind)
def test_classes_without_images_are_no_nan_anywhere(config: Compatibility, counts: list[int]) -> None:
    old = space_of(torch.tensor([at(0), at(20), at(40)]), counts)
    alignment = PrototypeAlignment(old, config)
    for epoch in range(3):
        alignment.start_epoch(epoch)
        rows = torch.tensor([at(5), at(50)]).requires_grad_()
        loss, logs = alignment.loss(seen(rows, [0, 1]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(math.isfinite(value) for value in logs.values())
        assert rows.grad is not None
        assert torch.isfinite(rows.grad).all()
        torch.testing.assert_close(alignment.perturbed.norm(dim=1), old.known.float())


def test_the_state_is_constants_and_all_that_a_later_refresh_needs() -> None:
    for config in MOVED:
        whole, again = (PrototypeAlignment(OLD, config, seed=2) for _ in range(2))
        assert list(whole.module().parameters()) == []
        for epoch in range(3):
            whole.start_epoch(epoch)
            shown(whole, news(epoch).requires_grad_())
        again.module().load_state_dict(whole.module().state_dict())
        for alignment in (whole, again):
            alignment.start_epoch(3)
        assert torch.equal(whole.perturbed, again.perturbed)
        assert torch.equal(shown(whole, news(5)), shown(again, news(5)))
        assert not any(buffer.requires_grad for buffer in whole.module().buffers())
        assert torch.equal(OLD.prototypes, crowded(dtype=torch.float32).prototypes)


def test_a_later_stage_may_move_prototypes_by_what_is_left_of_the_budget() -> None:
    config = Compatibility(kind="odpp", guard=Guard(margin=0.1))
    assert config.for_stage(0) == config
    assert config.for_stage(10) == config
    assert config.for_stage(22.5) == replaced(config, guard=Guard(largest_angle=7.5, margin=0.1))
    assert config.for_stage(22.5, budget=50) == config
    for spent in (30, 45.0):
        assert config.for_stage(spent) == replaced(config, kind="none")


def test_neighbours_move_negatives_too_unless_told_otherwise() -> None:
    assert [Compatibility(kind=kind).perturbs_negatives for kind in KINDS] == [False, True, False]
    for told in (False, True):
        found = [Compatibility(kind=kind, has_perturbed_negatives=told).perturbs_negatives for kind in KINDS]
        assert found == [told] * 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "both"}, "kind is 'both', allowed: none, ndpp, odpp"),
        ({"strength": "much"}, "strength is 'much', allowed: 'auto' or a number >= 0"),
        ({"strength": -0.1}, "strength is -0.1, it must be >= 0, or 'auto'"),
        ({"weight": -1.0}, r"are \(-1.0, 0.0, 0.1, 1.0\), they must be >= 0"),
        ({"new_strength": -1.0}, r"are \(1.0, 0.0, -1.0, 1.0\)"),
        ({"code_weight": -1.0}, r"are \(1.0, 0.0, 0.1, -1.0\)"),
        ({"temperature": 0.0}, "temperatures 0.0 and 0.1 above 0"),
        ({"momentum": 1.0}, r"momentum is 1.0 \(\[0, 1\)\)"), ({"steady_degrees": 0.0}, r"steady_degrees 0.0 \(> 0\)"),
        ({"warmup_epochs": -1}, r"warmup_epochs is -1 \(>= 0\)"), ({"neighbours": -2}, "neighbours -2"),
        ({"refresh_epochs": -1}, "refresh_epochs -1"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Compatibility(**wrong)


def test_a_space_of_twenty_four_classes_is_not_changed_by_aligning_to_it() -> None:
    before = OldSpace(
        *(field.clone() for field in (OLD.prototypes, OLD.counts, OLD.concentrations, OLD.radii))
    )
    for config in (*UNMOVED, *MOVED):
        alignment = PrototypeAlignment(OLD, config)
        for epoch in range(3):
            alignment.start_epoch(epoch)
            shown(alignment, news(epoch))
    assert torch.equal(OLD.prototypes, before.prototypes)
    assert torch.equal(OLD.counts, before.counts)
