"""Version 1.0 end to end on a small cut of the real packs, and the sums its report rests on."""

import csv
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ml.__main__ import main
from ml.artifacts import load_bundle
from ml.base_version.measure import similarities
from ml.base_version.sets import EncodedSet
from ml.data.packs import Pack, PackRecord, open_pack
from ml.data.reserved import ReservedClasses, load_reserved

RECIPE = {
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


@pytest.fixture(scope="module")
def small_packs(data_packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    for name in ("grocery", "clothing", "places_indoor"):
        cut_pack(open_pack(data_packs / name), folder / name)
    return folder


def test_train_writes_a_bundle_that_serves_and_says_how_it_came_about(
    small_packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    target, checkpoint = tmp_path / "bundle", tmp_path / "fit.safetensors"
    command = [
        "train",
        "--data",
        str(small_packs),
        "--out",
        str(target),
        "--config",
        str(tmp_path / "recipe.json"),
    ]

    assert main([*command, "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr()

    bundle = load_bundle(target)
    assert json.loads(printed.out)["digest"] == bundle.digest
    assert printed.err.splitlines()[-1].startswith("epoch 4/4 loss ")
    reserved = load_reserved()
    assert len(bundle.manifest.labels) == 12
    assert all(reserved.is_trainable(*name.split(":", 1)) for name in bundle.manifest.labels)
    assert bundle.manifest.training["recipe"]["fit"]["epochs"] == 4
    assert bundle.manifest.training["classes"] == 12
    assert set(bundle.manifest.metrics["strong_share"]["unlabelled_extra"]) == {"all", "clothing"}
    assert bundle.encoder().encode(np.zeros((1, 32, 32, 3), np.uint8)).packed_codes.shape == (1, 8)
    calibration = bundle.calibration
    assert 0 < calibration.weak <= calibration.strong < 1

    assert main([*command, "--checkpoint", str(checkpoint)]) == 1  # the bundle is not overwritten
    assert load_bundle(target).digest == bundle.digest


def encoded(names: list[str | None], vectors: list[list[float]]) -> EncodedSet:
    return EncodedSet(
        signs=np.sign(np.array(vectors, dtype=np.float32)),
        embeddings=np.array(vectors, dtype=np.float32)
        / np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32),
        names=np.array(names, dtype=object),
        packs=("grocery",) * len(names),
    )


def test_similarities_are_cosines_of_codes_and_embeddings() -> None:
    queries = encoded(["a"], [[3.0, 4.0]])
    gallery = encoded(["a", "b"], [[4.0, 3.0], [-3.0, 4.0]])

    pairs = similarities(queries, gallery)

    assert pairs.code.tolist() == [[1.0, 0.0]]
    assert pairs.cosine[0] == pytest.approx([24 / 25, 7 / 25])
    assert pairs.relevant.tolist() == [[True, False]]


def test_hiding_the_own_class_leaves_no_relevant_entry_and_nothing_of_it_near() -> None:
    queries = encoded(["a", "b"], [[1.0, 1.0], [1.0, -1.0]])

    pairs = similarities(queries, queries, hide_own_class=True)

    assert not pairs.relevant.any()
    assert pairs.code.tolist() == [[-1.0, 0.0], [0.0, -1.0]]
    assert pairs.cosine.diagonal().tolist() == [-1.0, -1.0]


def test_two_images_without_a_label_are_not_relevant_to_each_other() -> None:
    unlabelled = encoded([None, None], [[1.0, 1.0], [1.0, 1.0]])

    assert not similarities(unlabelled, unlabelled).relevant.any()
