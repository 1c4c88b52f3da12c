"""Folders of real photos for imports: class folders cut out of a data pack, another part for each call."""

import csv
import tarfile
from pathlib import Path


def photo_folder(packs: Path, target: Path, *, first: int, count: int) -> Path:
    """Write `count` grocery photos, from number `first` on, as `target/<class>/<file>`; returns `target`."""
    pack = packs / "grocery"
    with (pack / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "train"][first : first + count]
    assert len(rows) == count, f"the pack has only {len(rows)} photos from {first} on"
    for shard in sorted({row["shard"] for row in rows}):
        with tarfile.open(pack / shard) as archive:
            for row in rows:
                if row["shard"] == shard:
                    member = archive.extractfile(row["path"])
                    assert member is not None
                    path = target / row["class"] / Path(row["path"]).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(member.read())
    return target
