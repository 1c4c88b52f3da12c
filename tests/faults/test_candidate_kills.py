"""kill -9 of a worker that trains a candidate: it goes on where it was, and ends in one version with one verdict."""

import json
from pathlib import Path

import pytest

from tests.faults.test_training_kills import wait_until_done
from tests.photo_folders import photo_folder
from tests.searchapp.candidates import EPOCHS, TINY
from tests.system import System

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    "point",
    [
        "training.after_pilot",
        "training.after_epoch:3",
        "training.after_bundle",
        "training.after_register",
        "training.before_verdict",
    ],
)
def test_a_candidate_survives_the_death_of_its_worker(point: str, data_packs: Path, tmp_path: Path) -> None:
    photos = photo_folder(data_packs, tmp_path / "photos", first=0, count=90)
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(TINY), encoding="utf-8")
    with System(failpoint=point) as system:
        system.run("import_catalogue", str(photos), "--wait")
        stored = system.rows("SELECT id, code, embedding FROM searchapp_galleryentry ORDER BY id")
        assert len(stored) == system.value("SELECT count(*) FROM searchapp_itemimage")
        system.run_json(
            "train_candidate", "--method", "ndpp", "--architecture", "parity", "--epochs", str(EPOCHS),
            "--config", str(config),
        )  # fmt: skip
        wait_until_done(system, "train_candidate")

        assert system.marker.exists(), "nobody was killed"
        versions = system.rows("SELECT major, minor, parent_id FROM searchapp_modelversion ORDER BY major")
        assert versions == [(1, 0, None), (2, 0, 1)]
        checkpoint = json.loads(
            system.value("SELECT checkpoint FROM searchapp_job WHERE kind = 'train_candidate'")
        )
        assert [row["epoch"] for row in checkpoint["history"]] == list(range(1, EPOCHS + 1))
        assert checkpoint["pilot"]["epochs"] == 2
        assert system.value("SELECT count(*) FROM searchapp_verdict") == 1
        assert system.rows("SELECT id, code, embedding FROM searchapp_galleryentry ORDER BY id") == stored
        assert not list((system.data / "training").iterdir())
