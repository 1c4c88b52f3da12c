"""What a training that is tried again knows of its earlier attempts."""

from pathlib import Path
from typing import Any

import pytest

from searchapp.models import Deployment, Evaluation, Job, JobState
from searchapp.services import base_training, deploying, jobs, training_attempt, versions
from tests.searchapp.test_deploying import PASSED, judged
from tests.searchapp.trainings import candidate, small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]
PAYLOAD = {
    "config": {},
    "label_fraction": 1.0,
    "architecture": "budget",
    "from_scratch": True,
    "promote": True,
}


def measuring_job(checkpoint: dict[str, Any]) -> Job:
    """A training that died after its version was registered."""
    return Job.objects.create(
        kind="train_base", queue=Job.Queue.TRAINING, payload=PAYLOAD, checkpoint=checkpoint
    )


def test_a_training_tried_again_after_its_own_promotion_keeps_its_comparison(
    data_dir: Path, data_packs: Path
) -> None:
    small_shop(data_packs, count=4)
    version = candidate()
    registered = {"stage": "encoding", "version": version.pk, "folder": "earlier", "photos": 8}
    first = jobs.job_run_here(measuring_job(registered))
    assert first.state == JobState.DONE, first.error
    checkpoint = first.checkpoint
    checkpoint["comparison"]["gates"] = [PASSED]  # photos enough to pass would take minutes
    move = deploying.version_promote(version=judged(version), user=None, idempotency_key="promote:earlier")
    jobs.job_run_here(move)
    evaluations = Evaluation.objects.count()

    again = jobs.job_run_here(measuring_job(checkpoint))

    result = again.result or {}
    assert again.state == JobState.DONE, again.error
    assert (result["version"], result["against"]["version"]) == ("2.0", "1.0")
    assert result["promotion_job"] == str(move.pk)
    assert (Evaluation.objects.count(), Job.objects.filter(kind="promote").count()) == (evaluations, 1)
    assert (versions.champion().version, Deployment.objects.count()) == (version, 2)


def test_a_full_curve_keeps_the_epochs_that_were_validated() -> None:
    points: list[dict[str, Any]] = []
    for epoch in range(1, 1001):
        validated = {"validation": 0.5} if epoch % 10 == 0 else {}
        points = training_attempt.history_with(points, {"epoch": epoch, "loss": 1.0, **validated})
        assert len(points) <= base_training.HISTORY_POINTS
        assert points[-1]["epoch"] == epoch

    assert [point["epoch"] for point in points if "validation" in point] == list(range(10, 1001, 10))
    assert [point["epoch"] for point in points] == sorted({point["epoch"] for point in points})


def test_a_curve_of_validated_epochs_alone_stays_small_too() -> None:
    points: list[dict[str, Any]] = []
    for epoch in range(1, 501):
        points = training_attempt.history_with(points, {"epoch": epoch, "loss": 1.0, "validation": 0.5})
        assert len(points) <= base_training.HISTORY_POINTS
    assert points[-1]["epoch"] == 500


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"photos": []}', '{"photos": [], "recipe": null, "start": ""}']
)
def test_a_plan_that_cannot_be_read_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")

    assert training_attempt.read_plan(path) is None
