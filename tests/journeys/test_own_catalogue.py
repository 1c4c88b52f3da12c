"""A folder of 300 photos in ten classes that the shipped weights never saw: imported, trained on, put in use, searched.

No browser: what an integrator does, by command and over HTTP, against running processes.
"""

import csv
import tarfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml.data.reserved import load_reserved
from tests.system import System

pytestmark = [pytest.mark.journey, pytest.mark.system, pytest.mark.timeout(600)]
CLASSES, PHOTOS = 10, 300
# Half of the epochs that `train_base` would take by itself, for the time's sake.
CONFIG = {"fit": {"epochs": 45, "warmup_epochs": 4.5, "validate_every": 5}}


def class_folders(packs: Path, target: Path) -> dict[str, list[bytes]]:
    """Write 300 photos of ten reserved classes as `target/<class>/<file>`; the pack's test photos of them."""
    names = sorted(load_reserved().reserved["grocery"])[:CLASSES]
    with (packs / "grocery" / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["class"] in names]
    wanted: dict[str, tuple[str, str]] = {}
    for name in names:
        shown = [row for row in rows if row["class"] == name and row["split"] in {"train", "val"}]
        asked = [row for row in rows if row["class"] == name and row["split"] == "test"]
        chosen = shown[: PHOTOS // CLASSES] + asked
        wanted |= {row["path"]: (row["split"], row["shard"]) for row in chosen}
    held_out: dict[str, list[bytes]] = defaultdict(list)
    for shard in sorted({shard for _, shard in wanted.values()}):
        with tarfile.open(packs / "grocery" / shard) as archive:
            for row in rows:
                if wanted.get(row["path"], ("", ""))[1] != shard:
                    continue
                member = archive.extractfile(row["path"])
                assert member is not None
                data = member.read()
                if row["split"] == "test":
                    held_out[row["class"]].append(data)
                    continue
                path = target / row["class"] / Path(row["path"]).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return held_out


class Answers:
    """Recall@1 and average precision over the first fifty items, both by category, of all held-out photos."""

    def __init__(self, client: httpx.Client, held_out: dict[str, list[bytes]]) -> None:
        self.recall, self.precision, self.versions = [], [], set()
        for name, photos in held_out.items():
            for photo in photos:
                answer = client.post("/search", files={"image": ("q.jpg", photo)}, data={"k": "50"}).json()
                self.versions.add(answer["model_version"])
                right = [result["category"] == name for result in answer["results"]]
                self.recall.append(float(right[0]))
                hits = [sum(right[: at + 1]) / (at + 1) for at, is_right in enumerate(right) if is_right]
                self.precision.append(sum(hits) / max(1, len(hits)))

    @property
    def means(self) -> tuple[float, float]:
        count = len(self.recall)
        return sum(self.recall) / count, sum(self.precision) / count


def finished(system: System, client: httpx.Client, job_id: str, seconds: float) -> dict[str, Any]:
    def state() -> Any:
        return client.get(f"/jobs/{job_id}").json()

    system.wait_until(lambda: state()["state"] in {"done", "failed", "cancelled"}, "the job", seconds=seconds)
    job: dict[str, Any] = state()
    assert job["state"] == "done", job["error"]
    return job


def test_a_catalogue_of_ones_own_is_found_better_after_training_on_it(
    data_packs: Path, tmp_path: Path
) -> None:
    held_out = class_folders(data_packs, tmp_path / "shop")
    assert sum(map(len, held_out.values())) >= 50
    with System() as system:
        imported = system.run_json("import_catalogue", str(tmp_path / "shop"), "--wait")
        assert imported["failed"] == 0
        assert imported["evaluation_queries"] >= 20
        system.python("from searchapp.services.accounts import demo_accounts_ensure as e; e()")
        key = system.run("create_api_key", "operator").stdout.strip()
        client = httpx.Client(
            base_url=f"{system.base_url}/api/v1", headers={"Authorization": f"Key {key}"}, timeout=120
        )
        few = {name: photos[:3] for name, photos in held_out.items()}
        before, before_few = Answers(client, held_out), Answers(client, few)
        assert before.versions == {"1.0"}

        started = client.post("/model-versions", json={"method": "base", "config": CONFIG, "promote": True})
        assert started.status_code == 202, started.text
        result = finished(system, client, started.json()["id"], 400)["result"]
        assert result["version"] == "2.0"
        assert result["started_from"] == system.value(
            "SELECT digest FROM searchapp_modelversion WHERE major = 1"
        )
        assert result["gates"][0]["verdict"] == "pass", result
        promotion = finished(system, client, result["promotion_job"], 60)["result"]
        assert (promotion["serving"], promotion["previous"]) == ("2.0", "1.0")
        assert promotion["gallery_digest_before"] == promotion["gallery_digest_after"]

        time.sleep(2)  # every process follows within two seconds
        after = Answers(client, held_out)
        print(
            f"Recall@1 {before.means[0]:.3f} -> {after.means[0]:.3f}, AP@50 {before.means[1]:.3f} -> ", end=""
        )
        print(f"{after.means[1]:.3f}; on the product's own queries {result['differences']}")
        assert after.versions == {"2.0"}
        assert after.means[0] > before.means[0]
        assert after.means[1] > before.means[1] + 0.05
        assert result["metrics"]["map"] > result["against"]["metrics"]["map"]

        back = client.post("/rollback").json()
        assert back["result"]["serving"] == "1.0"
        time.sleep(2)
        again = Answers(client, few)
        assert (again.versions, again.precision) == ({"1.0"}, before_few.precision)
