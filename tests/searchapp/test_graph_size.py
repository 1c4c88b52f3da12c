"""An encoder that could never become a bundle is refused before it is trained."""

from typing import Any

import pytest

from ml.artifacts import load_bundle
from searchapp.services.graph_size import graph_bytes
from searchapp.services.training_recipe import recipe_with
from tests.conftest import ROOT

SIZES = [20] * 10


@pytest.mark.parametrize("name", ["default", "budget"])
def test_the_size_of_a_graph_is_told_to_the_nearest_thousand_bytes(name: str) -> None:
    bundle = load_bundle(ROOT / "ml" / "weights" / name)

    assert abs(graph_bytes(bundle.manifest.encoder_config) - len(bundle.graph)) < 1000


@pytest.mark.parametrize(
    "encoder",
    [{"code_hidden": 1024}, {"trunk": {"widths": [512, 512, 512, 512]}}, {"trunk": {"widths": [1024] * 4}}],
)
def test_an_encoder_above_the_limit_of_a_bundle_is_refused(encoder: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"makes a file of about [\d,]+ bytes, allowed 1,000,000"):
        recipe_with({"method": {"encoder": encoder}}, "parity", SIZES, from_scratch=False)


def test_both_architectures_and_the_server_size_trunk_are_allowed() -> None:
    recipe_with({}, "parity", SIZES, from_scratch=False)
    recipe_with({}, "budget", SIZES, from_scratch=True)
    trunk = {"method": {"encoder": {"trunk": {"kind": "residual"}}}}
    assert recipe_with(trunk, "parity", SIZES, from_scratch=False).method.encoder.trunk.kind == "residual"
