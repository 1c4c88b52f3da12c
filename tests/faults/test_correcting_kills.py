"""kill -9 of the worker that corrects or backfills a gallery: the old view or the new one serves, rows stay whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_training_kills import wait_until_done
from tests.photo_folders import photo_folder
from tests.system import System

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]
PHOTOS = 90
AGE = """
from searchapp.services import versions
from tests.searchapp.stale_shop import hold_out_one_of_each, put_in_use
from tests.searchapp.turned import turned_version
hold_out_one_of_each()
put_in_use(turned_version(versions.champion().version, degrees=60.0))
"""
LOOK = """
import io, json
import numpy as np
from django.core.management import CommandError, call_command
from searchapp.models import CodeTally
from searchapp.services import code_statistics as counted, correctors, versions
live = versions.champion()
out, problem = io.StringIO(), ""
try:
    call_command("index_audit", "--json", stdout=out)
except CommandError as error:
    problem = f"{error}: {out.getvalue()}"
labels = {pk: (pk,) for pk in CodeTally.objects.values_list("category", flat=True)}
kept, told = (
    found(live.version.lineage, labels, live.version.code_bits)
    for found in (counted.statistics_of, counted.recounted)
)
print(json.dumps({
    "audit": problem,
    "corrector": live.view.corrector_digest,
    "maps": sorted(correctors.corrector_of(live.view.corrector_digest)),
    "is_as_recounted": bool(np.array_equal(kept.gram, told.gram)),
}))
"""
ENTRIES = "SELECT id, code, embedding FROM searchapp_galleryentry ORDER BY id"
LIVE = "SELECT count(*) FROM searchapp_deployment WHERE ended_at IS NULL"


def stale(system: System, packs: Path, folder: Path) -> list[tuple[Any, ...]]:
    """Photos of 1.0, and 2.0 in use; the stored rows."""
    photos = photo_folder(packs, folder / "photos", first=0, count=PHOTOS)
    system.run("import_catalogue", str(photos), "--wait")
    system.python(AGE)
    return system.rows(ENTRIES)


def looked(system: System) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(system.python(LOOK))
    return found


@pytest.mark.parametrize(
    "point",
    [
        "correct.after_fit",
        "correct.after_calibration",
        "correct.before_move",
        "correct.before_commit",
        "correct.after_move",
    ],
)
def test_a_correction_is_made_once_or_not_at_all(point: str, data_packs: Path, tmp_path: Path) -> None:
    with System(failpoint=point) as system:
        stored = stale(system, data_packs, tmp_path)
        system.run("correct_gallery", "--queue", "--override", "to see it move")
        wait_until_done(system, "correct_gallery")

        assert system.marker.exists(), "nobody was killed"
        found = looked(system)
        assert (found["audit"], found["maps"]) == ("", ["1.0"])
        assert system.value(LIVE) == 1
        assert system.value("SELECT count(*) FROM searchapp_deployment") == 3
        assert len(list((system.data / "models" / "correctors").iterdir())) == 1
        assert system.rows(ENTRIES) == stored
        system.run("rollback")
        after = looked(system)
        assert (after["corrector"], after["audit"]) == ("", "")
        assert system.rows(ENTRIES) == stored


@pytest.mark.parametrize("point", ["backfill.after_chunk_commit", "gallery.before_commit"])
def test_a_backfill_goes_on_where_its_worker_died(point: str, data_packs: Path, tmp_path: Path) -> None:
    with System() as system:
        stored = stale(system, data_packs, tmp_path)
        system.failpoint = point
        system.kill_part("serve")
        system.start_part("serve")
        system.run("backfill", "--queue")
        wait_until_done(system, "backfill")

        assert system.marker.exists(), "nobody was killed"
        after = system.rows(ENTRIES)
        assert after[: len(stored)] == stored
        assert len(after) == 2 * len(stored)
        found = looked(system)
        assert (found["audit"], found["is_as_recounted"]) == ("", True)
