"""What a training may be asked for ends where a machine would: each refusal names key, value and limit."""

import os
from typing import Any

import pytest

from searchapp.services.training_recipe import recipe_with

SIZES = [20] * 10


def refused(config: dict[str, Any], sizes: list[int] = SIZES) -> str:
    with pytest.raises(ValueError, match="config") as error:
        recipe_with(config, "parity", sizes, from_scratch=False)
    return str(error.value)


def bottlenecks(**values: int) -> dict[str, Any]:
    return {"method": {"bottlenecks": values}}


@pytest.mark.parametrize(
    ("most", "beyond", "words"),
    [
        (
            {"fit": {"epochs": 2000}},
            {"fit": {"epochs": 10**9}},
            "fit.epochs is 1,000,000,000, allowed up to 2,000",
        ),
        ({"seed": 2**31 - 1}, {"seed": 2**31}, "seed is 2,147,483,648, allowed up to 2,147,483,647"),
        ({"stored_size": 256}, {"stored_size": 20_000}, "stored_size is 20,000, allowed up to 256"),
        (
            {"sampling": {"classes_per_batch": 4, "images_per_class": 256}},
            {"sampling": {"classes_per_batch": 4, "images_per_class": 257}},
            "sampling: classes_per_batch x images_per_class is 1,028, allowed up to 1,024",
        ),
        (
            {"sampling": {"sizes": [[0.5, 24], [1.0, 256]]}},
            {"sampling": {"sizes": [[0.5, 257], [1.0, 96]]}},
            "sampling.sizes is 257, allowed 24 to 256",
        ),
        (
            {"sampling": {"sizes": [[1.0, 96]]}},
            {"sampling": {"sizes": [[0.5, 0], [1.0, 96]]}},
            "sampling.sizes is 0, allowed 24 to 256",
        ),
        (
            bottlenecks(decoder_hidden=4096),
            bottlenecks(decoder_hidden=4097),
            "method.bottlenecks.decoder_hidden is 4,097, allowed up to 4,096",
        ),
        (
            {"negatives": {"queries": 256, "count": 4}},
            {"negatives": {"queries": 205, "count": 5}},
            "negatives: queries x count is 1,025, allowed up to 1,024",
        ),
        (
            {"negatives": {"hidden": 4096}},
            {"negatives": {"hidden": 4097}},
            "negatives.hidden is 4,097, allowed up to 4,096",
        ),
        (
            bottlenecks(critic_hidden=4096),
            bottlenecks(critic_hidden=4097),
            "method.bottlenecks.critic_hidden is 4,097, allowed up to 4,096",
        ),
    ],
)
def test_the_limit_itself_is_allowed_and_more_is_refused(
    most: dict[str, Any], beyond: dict[str, Any], words: str
) -> None:
    recipe_with(most, "parity", SIZES, from_scratch=False)
    assert refused(beyond) == f"config.{words}"


def test_photos_that_would_fill_the_memory_are_refused() -> None:
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fitting = half // (256 * 256 * 3)
    config = {"stored_size": 256}

    recipe_with(config, "parity", [fitting - 10, 10], from_scratch=False)
    said = refused(config, [fitting - 9, 10])

    assert f"{fitting + 1:,} photos at config.stored_size 256 take" in said
    assert f"allowed {half / 1e9:,.1f} GB: half of what this machine has" in said


def test_the_compact_method_is_held_to_the_same_limits() -> None:
    assert refused({"method": {"kind": "compact"}, "seed": 2**31}).startswith("config.seed is 2,147,483,648")
