"""kill -9 of a training worker: the training goes on from its last epoch, and ends in one version."""

import json
from pathlib import Path

import pytest

from tests.photo_folders import photo_folder
from tests.searchapp.trainings import TINY
from tests.system import System

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
EPOCHS = 9


@pytest.mark.parametrize(
    "point",
    ["training.after_epoch:3", "training.after_bundle", "training.after_register", "promote.before_move"],
)
def test_a_training_survives_the_death_of_its_worker(point: str, data_packs: Path, tmp_path: Path) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=90)
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps({**TINY, "fit": {**TINY["fit"], "epochs": EPOCHS}}), encoding="utf-8")
    with System(failpoint=point) as system:
        system.run("import_catalogue", str(photos), "--wait")
        queued = system.run_json("train_base", "--config", str(config), "--from-scratch")
        wait_until_done(system, "train_base")
        if point.startswith("promote"):
            system.python(
                "from searchapp.models import ModelVersion as V; from searchapp.services import deploying as d;"
                "d.version_promote(version=V.objects.get(major=2), user=None, override_reason='to see it die')"
            )
            wait_until_done(system, "promote")

        assert system.marker.exists(), "nobody was killed"
        versions = system.rows("SELECT major, minor FROM searchapp_modelversion ORDER BY major")
        assert versions == [(1, 0), (2, 0)]
        checkpoint = json.loads(
            system.value("SELECT checkpoint FROM searchapp_job WHERE kind = 'train_base'")
        )
        assert [row["epoch"] for row in checkpoint["history"]] == list(range(1, EPOCHS + 1))
        assert queued["state"] == "queued"
        photos_there = system.value("SELECT count(*) FROM searchapp_itemimage")
        entries = system.rows("SELECT producer_id, count(*) FROM searchapp_galleryentry GROUP BY producer_id")
        assert [count for _, count in entries] == [photos_there, photos_there]
        live = system.rows(
            "SELECT v.major FROM searchapp_deployment AS d JOIN searchapp_modelversion AS v ON v.id = d.version_id"
            " WHERE d.ended_at IS NULL"
        )
        assert live == [(2,) if point.startswith("promote") else (1,)]


def wait_until_done(system: System, kind: str) -> None:
    ended = f"SELECT count(*) FROM searchapp_job WHERE kind = '{kind}' AND state IN ('done', 'failed')"
    system.wait_until(lambda: system.value(ended), f"{kind} to end", seconds=400)
    assert system.rows(f"SELECT state, error FROM searchapp_job WHERE kind = '{kind}'") == [("done", "")]
