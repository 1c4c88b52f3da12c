"""A small cut of the real packs, and a recipe that trains on it in seconds: for tests of whole versions."""

import csv
import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from ml.data.packs import Pack, PackRecord
from ml.data.reserved import ReservedClasses, load_reserved

RECIPE: dict[str, Any] = {
    "stored_size": 40,
    "method": {
        "encoder": {
            "input_size": 32, "code_bits": 64, "code_hidden": 32, "dimension": 32,
            "trunk": {"widths": [16, 16, 32, 32]},
        },
    },
    "fit": {"epochs": 4},
    "sampling": {"classes_per_batch": 6, "images_per_class": 4, "sizes": [[1.0, 32]]},
}  # fmt: skip


def is_wanted(
    record: PackRecord,
    reserved: ReservedClasses,
    seen: Counter[tuple[str, str]],
    kinds: dict[str, set[str]],
) -> bool:
    """Four trainable classes, two validation and one reserved class of each pack, 14 images a split."""
    label = record.label
    if label is None:
        kind, limit = "extra", 1
    elif reserved.is_reserved(record.pack, label):
        kind, limit = "reserved", 1
    elif reserved.is_validation(record.pack, label):
        kind, limit = "validation", 2
    else:
        kind, limit = "trainable", 4
    name = label or ""
    if name not in kinds.setdefault(kind, set()) and len(kinds[kind]) >= limit:
        return False
    kinds[kind].add(name)
    seen[name, record.split] += 1
    return seen[name, record.split] <= 14


def cut_pack(pack: Pack, folder: Path) -> None:
    """Write a small pack of the same form from some of the pack's own rows and bytes."""
    folder.mkdir(parents=True)
    reserved, seen, kinds = load_reserved(), Counter[tuple[str, str]](), dict[str, set[str]]()
    chosen = [record for record in pack.records() if is_wanted(record, reserved, seen, kinds)]
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, pack.header)
        writer.writeheader()
        writer.writerows({**record.columns, "shard": "small-000.tar"} for record in chosen)
    with tarfile.open(folder / "small-000.tar", "w") as archive:
        for record in chosen:
            data = pack.read(record)
            member = tarfile.TarInfo(record.path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
