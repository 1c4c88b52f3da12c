"""What a training is made of, fixed when its job first runs: photos, recipe, and the version it goes on from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ml.artifacts import Bundle
from ml.base_version.candidate import candidate_recipe, check_recipe
from ml.base_version.catalogue import initial_weights, recipe_for
from ml.base_version.recipe import Recipe
from ml.config import config_from_dict, merged
from ml.training.memory import fastest_precision
from searchapp.models import Vertical
from searchapp.services.graph_size import check_graph_size
from searchapp.services.training_limits import check_limits, check_memory
from searchapp.services.training_photos import TrainingPhoto, category_sizes

HELD_METHOD = "compact"  # the one that can be held to stored codes
WARM_RATE = 0.25  # of the learning rate: faster, weights that know something would unlearn it first


def recipe_with(
    config: Mapping[str, Any],
    architecture: str,
    class_sizes: Sequence[int],
    *,
    from_scratch: bool,
    epochs: int | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe for a catalogue with classes of these sizes, with the user's values in their places.

    Raises ValueError naming what is wrong and what is allowed.
    """
    recipe = recipe_for(architecture, class_sizes, from_scratch=from_scratch, epochs=epochs)
    return _finished(replace(recipe, seed=seed), config, class_sizes)


def candidate_recipe_with(
    config: Mapping[str, Any],
    architecture: str,
    class_sizes: Sequence[int],
    *,
    parent: Bundle,
    alignment: str,
    starts: Sequence[Bundle] = (),
    epochs: int | None = None,
    seed: int = 0,
) -> Recipe:
    """As `recipe_with`, held to what `parent` stored; longer where it can go on from the weights of none of `starts`.

    Raises ValueError also where its codes and embeddings could not be compared with the parent's.
    """

    def recipe(*, from_scratch: bool) -> Recipe:
        free = recipe_for(
            architecture, class_sizes, method=HELD_METHOD, from_scratch=from_scratch, epochs=epochs
        )
        if not from_scratch:
            rate = free.fit.learning_rate * WARM_RATE
            free = replace(free, fit=replace(free.fit, learning_rate=rate))
        return _held(replace(free, seed=seed), config, class_sizes, parent, alignment)

    warm = recipe(from_scratch=False)
    return recipe(from_scratch=True) if start_of(warm, starts) is None else warm


def start_of(recipe: Recipe, starts: Sequence[Bundle]) -> Bundle | None:
    """The first whose encoder has the recipe's shape: training goes on from its weights."""
    return next((start for start in starts if initial_weights(start, recipe) is not None), None)


def _held(
    recipe: Recipe, config: Mapping[str, Any], class_sizes: Sequence[int], parent: Bundle, alignment: str
) -> Recipe:
    """A lineage has one size of embeddings, and its kind of alignment is told by the method."""
    held = candidate_recipe(recipe, parent, alignment)
    found = _finished(held, config, class_sizes)
    check_recipe(found, parent)
    assert held.compatibility is not None
    assert found.compatibility is not None
    if found.compatibility.kind != held.compatibility.kind:
        raise ValueError(
            f"config.compatibility.kind is {found.compatibility.kind!r}, the method {alignment} has "
            f"{held.compatibility.kind!r}"
        )
    if found.method.encoder.dimension != parent.manifest.dimension:
        raise ValueError(
            f"config.method.encoder.dimension is {found.method.encoder.dimension}, the stored embeddings have "
            f"{parent.manifest.dimension}"
        )
    return found


def _finished(recipe: Recipe, config: Mapping[str, Any], class_sizes: Sequence[int]) -> Recipe:
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
    start: str  # digest of the version to go on from, or to be held to; empty: none

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
