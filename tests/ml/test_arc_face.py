"""ArcFace: an angle more for the own class, wherever the image lies."""

import math

import pytest
import torch

from ml.losses.arc_face import arc_face_loss
from tests.ml.compatible.spaces import at, images


def test_the_angular_margin_lowers_the_own_logit_alone() -> None:
    rows = torch.tensor([at(0), at(90)])
    loss = arc_face_loss(images(20), rows, torch.tensor([0]), scale=2.0, margin=math.radians(30))
    own, other = 2 * math.cos(math.radians(50)), 2 * math.cos(math.radians(70))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(other - own)), rel=1e-6)


def test_arc_face_falls_on_where_angle_and_margin_pass_half_a_turn() -> None:
    rows = torch.tensor([at(0), at(90)])

    def own_logit(angle: float) -> float:
        loss = arc_face_loss(images(angle), rows, torch.tensor([0]), scale=1.0, margin=math.radians(30))
        return math.cos(math.radians(90 - angle)) - math.log(math.expm1(loss.item()))

    logits = [own_logit(angle) for angle in (140, 149.9, 150.1, 160, 175)]
    assert logits == sorted(logits, reverse=True)
    assert logits[1] == pytest.approx(logits[2], abs=3e-3)  # no step
    assert logits[1] == pytest.approx(-1, abs=1e-3)


def test_an_image_upon_its_class_weight_or_opposite_to_it_has_a_finite_arc_face_gradient() -> None:
    new = images(0, 180)
    arc_face_loss(new, torch.tensor([at(0), at(90)]), torch.tensor([0, 0])).backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None
    assert torch.isfinite(new.grad).all()


@pytest.mark.parametrize(("scale", "margin"), [(0.0, 0.3), (30.0, -0.1), (30.0, 1.6)])
def test_arc_face_refuses_settings_that_mean_nothing(scale: float, margin: float) -> None:
    with pytest.raises(ValueError, match=r"scale is .* margin"):
        arc_face_loss(images(0), torch.eye(2), torch.tensor([0]), scale=scale, margin=margin)
