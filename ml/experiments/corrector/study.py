"""The experiment itself: its runs, what the claims ask of them, and how they are shown."""

from collections.abc import Sequence
from typing import Any

from ml.experiments.claims import Question
from ml.experiments.corrector import presenting
from ml.experiments.corrector.base_training import planned_base_training
from ml.experiments.corrector.serving_asking import serving_questions
from ml.experiments.corrector.serving_runs import planned_serving
from ml.experiments.corrector.shocks import planned_shocks, shock_questions
from ml.experiments.corrector.speed import planned_speed, speed_questions
from ml.experiments.corrector.sweep import planned_sweep
from ml.experiments.corrector.training_asking import training_questions
from ml.experiments.corrector.training_study import planned_training
from ml.experiments.data import Dataset
from ml.experiments.evidence import Evidence
from ml.experiments.protocol import Options, PlannedRun

SEEDS = 5  # of what is fast; each part says how many of them it takes


class CorrectorStudy:
    """See ml.experiments.protocol.Experiment."""

    name = "corrector"
    seeds = SEEDS

    def plan(self, datasets: Sequence[Dataset], options: Options) -> list[PlannedRun]:
        """What claims name before what is only described."""
        planned = [
            *planned_speed(options),
            *planned_sweep(options),
            *planned_shocks(datasets, options),
            *planned_serving(datasets, options),
            *planned_training(datasets, options),
            *planned_base_training(datasets, options),
        ]
        return sorted(planned, key=_priority)

    def questions(self, evidence: Evidence) -> list[Question]:
        """C11a to C12d."""
        asked = [
            *training_questions(evidence),
            *serving_questions(evidence),
            *speed_questions(evidence),
            *shock_questions(evidence),
        ]
        return sorted(asked, key=lambda question: question.id)

    def present(self, evidence: Evidence) -> dict[str, Any]:
        """Title, prose, tables and plots of the result file."""
        return presenting.present(evidence)


EXPERIMENT = CorrectorStudy()


def _priority(run: PlannedRun) -> tuple[int, int]:
    """Encoders first, then seed by seed."""
    return int(run.name not in {"base", "old", "independent", "continued"}), run.seed
