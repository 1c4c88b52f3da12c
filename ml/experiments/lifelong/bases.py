"""Trainings from scratch, each done once and read by all arms that stand on it: first generations, full retraining."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from ml.experiments.ledger import RunRecord
from ml.experiments.lifelong.arms import WORDS
from ml.experiments.lifelong.curriculum import Curriculum, LabelScheme
from ml.experiments.lifelong.trunks import Features
from ml.experiments.protocol import Options, PlannedRun
from ml.methods.lifelong.config import LifelongConfig
from ml.methods.lifelong.heads import CrossModalHeads
from ml.methods.lifelong.lesson import Lesson
from ml.methods.lifelong.update import learn_base

HEADS_FILE, CODES_FILE = "heads.safetensors", "codes.safetensors"


@dataclass(frozen=True)
class Place:
    """A chain with its features and everything that is trained on it. title: as settings name it."""

    title: str
    features_run: PlannedRun
    read: Any  # () -> Features
    options: Options
    words: int = WORDS

    @cached_property
    def features(self) -> Features:
        """Made now if the ledger lacks them."""
        found: Features = self.read()
        return found

    def curriculum(self, scheme: LabelScheme) -> Curriculum:
        """Under a label scheme; one object per scheme, for it remembers what it worked out."""
        known: dict[LabelScheme, Curriculum] = self._curricula
        return known.setdefault(scheme, Curriculum(self.features, scheme, self.words))

    @cached_property
    def _curricula(self) -> dict[LabelScheme, Curriculum]:
        return {}

    def identity(self, scheme: LabelScheme) -> dict[str, Any]:
        """What decides features, labels and texts."""
        return {"features": dict(self.features_run.identity), "scheme": asdict(scheme), "words": self.words}

    def planned_lesson(
        self, config: LifelongConfig, scheme: LabelScheme, *, stage: int, seed: int
    ) -> PlannedRun:
        """All entries of the stages up to `stage` learned from scratch."""
        identity = {**self.identity(scheme), "config": asdict(config), "stage": stage}
        setting = f"{self.title}/from scratch"

        def work(checkpoint: Path) -> RunRecord:
            lesson = self._learned(config, scheme, stage, seed, checkpoint)
            return RunRecord(
                name=f"stage {stage}", setting=setting, seed=seed,
                values={"training_seconds": round(lesson.seconds, 3), "epochs": lesson.epochs},
                seconds=lesson.seconds, files=_files(lesson),
            )  # fmt: skip

        return PlannedRun(name=f"stage {stage}", setting=setting, seed=seed, identity=identity, work=work)

    def lesson(self, config: LifelongConfig, scheme: LabelScheme, *, stage: int, seed: int) -> Lesson:
        """The same, read back."""
        run = self.planned_lesson(config, scheme, stage=stage, seed=seed)
        record = self.options.ledger.run(run.full_identity("lifelong", smoke=self.options.smoke), run.work)
        return _read(
            record.files, config, self.features.vectors.shape[1], float(record.values["training_seconds"])
        )

    def _learned(
        self, config: LifelongConfig, scheme: LabelScheme, stage: int, seed: int, checkpoint: Path
    ) -> Lesson:
        curriculum = self.curriculum(scheme)
        rows = np.concatenate([curriculum.entries(one) for one in range(stage + 1)])
        return learn_base(
            curriculum.registries[stage], curriculum.items(rows), curriculum.texts(rows), config, seed=seed,
            checkpoint=checkpoint,
        )  # fmt: skip


def _files(lesson: Lesson) -> dict[str, bytes]:
    weights = {name: value.contiguous().numpy() for name, value in lesson.heads.state_dict().items()}
    return {
        HEADS_FILE: save(weights),
        CODES_FILE: save({"solved": lesson.solved, "encoded": lesson.encoded}),
    }


def _read(files: Mapping[str, bytes], config: LifelongConfig, features: int, seconds: float) -> Lesson:
    weights, codes = load(files[HEADS_FILE]), load(files[CODES_FILE])
    hashed = next(
        (value.shape[1] for name, value in weights.items() if name.endswith("code_head.layers.0.weight")), 0
    )
    heads = CrossModalHeads(
        features,
        hidden=config.hidden,
        code_bits=config.code_bits,
        words=hashed,
        text_hidden=config.text_hidden,
    )
    heads.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    frozen = heads.eval().requires_grad_(requires_grad=False)
    return Lesson(frozen, codes["solved"], codes["encoded"], seconds, config.epochs)
