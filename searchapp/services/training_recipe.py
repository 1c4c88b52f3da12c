"""What a training is made of, fixed when its job first runs: photos, recipe, and the version it goes on from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ml.base_version.catalogue import recipe_for
from ml.base_version.recipe import Recipe
from ml.config import config_from_dict, merged
from ml.training.memory import fastest_precision
from searchapp.models import Vertical
from searchapp.services.graph_size import check_graph_size
from searchapp.services.training_limits import check_limits, check_memory
from searchapp.services.training_photos import TrainingPhoto, category_sizes


def recipe_with(
    config: Mapping[str, Any], architecture: str, class_sizes: Sequence[int], *, from_scratch: bool
) -> Recipe:
    """The recipe for a catalogue with classes of these sizes, with the user's values in their places.

    Raises ValueError naming what is wrong and what is allowed.
    """
    recipe = recipe_for(architecture, class_sizes, from_scratch=from_scratch)
    # A mirrored product is the same product, a mirrored place another one.
    sampling = replace(recipe.sampling, mirrored_packs=(Vertical.PRODUCT.value,))
    fit = replace(recipe.fit, precision=fastest_precision())
    recipe = merged(replace(recipe, sampling=sampling, fit=fit), config)
    if recipe.sampling.classes_per_batch > len(class_sizes):
        raise ValueError(
            f"config.sampling.classes_per_batch is {recipe.sampling.classes_per_batch}, there are "
            f"{len(class_sizes)} categories"
        )
    check_limits(recipe)
    check_graph_size(recipe.method.encoder)
    check_memory(sum(class_sizes), recipe.stored_size)
    return recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training is made of, the same in every attempt."""

    photos: tuple[TrainingPhoto, ...]
    recipe: Recipe
    start: str  # digest of the version to go on from; empty: random weights

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(category_sizes(list(self.photos)))

    def as_json(self) -> str:
        photos = [photo.as_row() for photo in self.photos]
        return json.dumps({"photos": photos, "recipe": self.recipe.as_values(), "start": self.start})

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        photos = tuple(TrainingPhoto(**row) for row in values["photos"])
        return cls(photos, config_from_dict(Recipe, values["recipe"]), values["start"])
