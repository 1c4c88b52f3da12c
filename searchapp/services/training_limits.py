"""How large a training may be here: the product's limits, far beyond what helps and short of what stops a machine."""

import os

from ml.base_version.recipe import Recipe
from ml.methods import twin_bottleneck
from searchapp.services.base_training import MOST_EPOCHS, MOST_SEED

LEAST_SIZE = 24  # pixels a side: of an encoder's input, too
# Reading and training each hold the pixels a second time for a moment.
MEMORY_SHARE = 0.5


def check_limits(recipe: Recipe) -> None:
    """Raises ValueError naming the first value that is too much, what it is and what is allowed."""
    sampling, sizes = recipe.sampling, [size for _, size in recipe.sampling.sizes]
    batch = sampling.classes_per_batch * sampling.images_per_class
    _check("fit.epochs", recipe.fit.epochs, MOST_EPOCHS)
    _check("seed", recipe.seed, MOST_SEED)
    _check("stored_size", recipe.stored_size, 256)
    _check("sampling: classes_per_batch x images_per_class", batch, 1024)
    for size in (min(sizes), max(sizes)):
        _check("sampling.sizes", size, 256, least=LEAST_SIZE)
    if isinstance(recipe.method, twin_bottleneck.Config):
        bottlenecks = recipe.method.bottlenecks
        _check("method.bottlenecks.decoder_hidden", bottlenecks.decoder_hidden, 4096)
        _check("method.bottlenecks.critic_hidden", bottlenecks.critic_hidden, 4096)
    if recipe.negatives is not None:
        asked = recipe.negatives.queries * recipe.negatives.count
        _check("negatives: queries x count", asked, 1024)
        _check("negatives.hidden", recipe.negatives.hidden or 0, 4096)


def check_memory(photos: int, stored_size: int) -> None:
    """Raises ValueError when the pixels of so many photos would take more than MEMORY_SHARE of the memory."""
    needed = photos * stored_size**2 * 3
    allowed = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if needed > allowed:
        raise ValueError(
            f"{photos:,} photos at config.stored_size {stored_size} take {needed / 1e9:,.1f} GB of memory, allowed "
            f"{allowed / 1e9:,.1f} GB: half of what this machine has; give a smaller stored_size"
        )


def _check(key: str, value: int, most: int, *, least: int = 0) -> None:
    if not least <= value <= most:
        raise ValueError(f"config.{key} is {value:,}, allowed {f'{least} to' if least else 'up to'} {most:,}")
