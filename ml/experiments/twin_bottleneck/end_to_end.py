"""Tier B: trunk and heads trained together, at 64 pixels; labels, losses and codes are those of the product."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ml.base_version.recipe import Recipe, train_encoder
from ml.evaluation.metrics import mean_of
from ml.experiments.data import ClassSplit
from ml.experiments.ledger import RunRecord
from ml.experiments.twin_bottleneck.arms import SATBH, SHIPPED
from ml.experiments.twin_bottleneck.costs import chosen_mix, two_stages
from ml.experiments.twin_bottleneck.heads import Vectors
from ml.experiments.twin_bottleneck.measuring import code_quality, float_quality
from ml.experiments.twin_bottleneck.trunks import training_images
from ml.methods import twin_bottleneck
from ml.methods.twin_bottleneck import class_head_alone
from ml.models.encoder import ImageEncoder
from ml.protocol import pack_bits

SEEDS = 3
_CHUNK = 256
# An embedding that is to re-rank needs its metric loss in every arm.
_EMBEDDING = {"ce_weight": 1.0, "ms_weight": 0.5}


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """One run."""

    name: str
    setting: str
    seed: int
    split: ClassSplit
    recipe: Recipe


def recipes(trunk: Recipe) -> dict[str, Recipe]:
    """Row name -> the trunk's own recipe (the compact method) with the method exchanged."""
    losses = {
        "shipped": SHIPPED,
        "satbh": replace(SATBH, **_EMBEDDING),  # type: ignore[arg-type]
        "jmlh": class_head_alone(**_EMBEDDING),
    }
    encoder = trunk.method.encoder
    return {"compact": trunk} | {
        name: replace(trunk, method=twin_bottleneck.Config(encoder=encoder, bottlenecks=settings))
        for name, settings in losses.items()
    }


def measure_end_to_end(task: EndToEnd, checkpoint: Path) -> RunRecord:
    """Codes, embeddings and two-stage answers of one trained encoder."""
    started, split = time.monotonic(), task.split
    trained = train_encoder(
        training_images(split, split.train_labels),
        replace(task.recipe, seed=task.seed),
        checkpoint=checkpoint,
    )
    vectors = _vectors(trained.encoder, split, trained.seconds)
    per_query = code_quality(vectors.codes, split.final)
    per_query |= {
        f"embedding_{metric}": own
        for metric, own in float_quality(vectors.embeddings, split.final).items()
        if metric.startswith("map_at_1000")
    }
    staged, costs = two_stages(vectors, split.final, chosen_mix(vectors, split.choosing))
    per_query |= staged
    return RunRecord(
        name=task.name, setting=task.setting, seed=task.seed,
        values={"epochs": trained.epochs, "fit_seconds": round(trained.seconds, 1), **costs}
        | {metric: mean_of(own)[0] for metric, own in per_query.items()},
        per_query=per_query, seconds=time.monotonic() - started, items=split.final.query_items,
    )  # fmt: skip


@torch.no_grad()
def _vectors(encoder: ImageEncoder, split: ClassSplit, seconds: float) -> Vectors:
    codes, embeddings = [], []
    for chunk in torch.split(split.images.images.pixels, _CHUNK):
        images = (chunk.float() / 255.0).contiguous(memory_format=torch.channels_last)
        logits, vectors = encoder.eval()(images)
        codes.append(pack_bits(logits.numpy()))
        embeddings.append(vectors.numpy())
    return Vectors(np.concatenate(codes), np.concatenate(embeddings), seconds)
