"""What a new trunk gives back of a planted shift: it goes on training with what arrived, and codes everything anew."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ml.base_version.recipe import train_encoder
from ml.data.images import ImageSet
from ml.experiments.ledger import RunRecord, Value
from ml.experiments.lifelong.curriculum import Curriculum
from ml.experiments.lifelong.shift_study import STAGE, Cell, Roles, Study, row_of
from ml.experiments.lifelong.trunks import Features, base_images, recipe
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.lesson import Items
from ml.methods.lifelong.statistics import Signs
from ml.methods.lifelong.update import learn_base
from ml.models.export import weights_of
from ml.training.memory import fastest_precision

TRUNK_MARK = ", new trunk"  # of a row's name
TRUNK_STEPS = 150  # of further training: a tenth of what the trunk had


def renewed(study: Study, cell: Cell, seed: int, checkpoint: Path) -> RunRecord:
    """The row of one shift after a new trunk and new codes."""
    started = time.monotonic()
    roles = Roles(study.place.curriculum(study.scheme))
    base = study.place.lesson(study.base, study.scheme, stage=STAGE, seed=seed)
    plain = roles.precision(base.heads, roles.features.vectors[roles.asked], base.encoded)
    arrived, asked = roles.taken(roles.held, cell, seed=1), roles.taken(roles.asked, cell, seed=0)
    anew, trunk_seconds = _trained_on(roles, arrived, checkpoint)
    heads, codes, seconds = _learned_anew(study, roles, anew, arrived, seed)
    found = {
        "map_unshifted": plain,
        "map_new_trunk": roles.precision(heads, anew.of_pixels(asked), codes),
        "map_unshifted_new_trunk": roles.precision(heads, anew.vectors[roles.asked], codes),
    }
    values: dict[str, Value] = {"new_trunk_seconds": round(trunk_seconds + seconds, 1)}
    return row_of(study, f"{cell.title}{TRUNK_MARK}", seed, values, found, roles, started)


def _trained_on(roles: Roles, arrived: torch.Tensor, checkpoint: Path) -> tuple[Features, float]:
    """The features of a trunk that went on learning, standardised anew by the entries, and its seconds."""
    old, chain = roles.features, roles.features.chain
    made_by = recipe(chain, precision=fastest_precision(), smoke=False, steps=TRUNK_STEPS)
    trained = train_encoder(
        _with_arrived(roles, arrived), made_by, initial=weights_of(old.encoder), checkpoint=checkpoint
    )
    raw = replace(old, encoder=trained.encoder, mean=np.zeros_like(old.mean), scale=np.ones_like(old.scale))
    every = raw.of_pixels(chain.images.images.pixels)
    own = every[roles.entries]
    mean, scale = own.mean(axis=0), own.std(axis=0) + np.float32(1e-6)
    return replace(raw, vectors=(every - mean) / scale, mean=mean, scale=scale), trained.seconds


def _learned_anew(
    study: Study, roles: Roles, anew: Features, arrived: torch.Tensor, seed: int
) -> tuple[CrossModalHeads, Signs, float]:
    """Heads from scratch on entries and arrivals, the entries' new codes, and the seconds that took."""
    curriculum = Curriculum(anew, study.scheme, study.place.words)
    entries = curriculum.items(roles.entries)
    new = roles.arrived(anew.of_pixels(arrived))
    items = Items(
        np.concatenate([entries.features, new.features]),
        [*entries.sets, *new.sets],
        [*entries.keys, *new.keys],
    )
    registry, texts = curriculum.registries[STAGE], curriculum.texts(roles.entries)
    lesson = learn_base(registry, items, texts, study.base, seed=seed)
    return lesson.heads, lesson.encoded[: len(entries)], lesson.seconds


def _with_arrived(roles: Roles, arrived: torch.Tensor) -> ImageSet:
    """What the trunk was trained on, and what arrived."""
    base, labels = base_images(roles.features.chain), roles.curriculum.labels[roles.held]
    packs = roles.features.chain.images.images.packs
    digest = hashlib.sha256(base.fingerprint.encode() + arrived.numpy().tobytes()).hexdigest()
    return ImageSet(
        pixels=torch.cat([base.pixels, arrived]),
        labels=torch.cat([base.labels, torch.from_numpy(labels)]),
        names=base.names,
        packs=(*base.packs, *(packs[row] for row in roles.held)),
        fingerprint=digest,
    )
