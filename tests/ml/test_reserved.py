"""The committed list of reserved classes follows its own rule and stays out of training."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from ml.base_version.sets import open_packs, parts_of
from ml.data.images import labelled_name, training_records, validation_records
from ml.data.packs import open_pack
from ml.data.reserved import RESERVED_FILE, RULE, eligible_ids, first_in_rounds, hash_order, load_reserved


def test_the_list_has_the_promised_counts_and_states_its_rule() -> None:
    reserved = load_reserved()

    counts = {pack: len(labels) for pack, labels in reserved.reserved.items()}
    assert counts == {"grocery": 12, "clothing": 2, "places_indoor": 20, "catalog": 24}
    assert {pack: len(labels) for pack, labels in reserved.validation.items()} == {
        "grocery": 6, "clothing": 1, "places_indoor": 8,
    }  # fmt: skip
    assert json.loads(RESERVED_FILE.read_text(encoding="utf-8"))["rule"] == RULE
    for pack, labels in reserved.validation.items():
        assert not labels & reserved.reserved[pack]


def test_the_list_is_what_the_rule_gives_for_the_real_packs(data_packs: Path) -> None:
    packs = {
        name: open_pack(data_packs / name) for name in ("grocery", "clothing", "places_indoor", "catalog")
    }
    eligible = {name: eligible_ids(pack) for name, pack in packs.items()}
    chosen = {
        "grocery": hash_order("grocery", eligible["grocery"])[:12],
        "clothing": hash_order("clothing", eligible["clothing"])[:2],
        "places_indoor": first_in_rounds("places_indoor", eligible["places_indoor"], 20),
        "catalog": first_in_rounds("catalog", eligible["catalog"], 24),
    }
    reserved = load_reserved()
    assert {name: frozenset(labels) for name, labels in chosen.items()} == reserved.reserved

    sizes = Counter(record.label for record in packs["clothing"].records())
    left = {name: set(eligible[name]) - reserved.reserved[name] for name in eligible}
    left["clothing"] = {label for label in left["clothing"] if sizes[label] <= 400}
    draw = random.Random(0)
    for name, count in (("grocery", 6), ("clothing", 1), ("places_indoor", 8)):
        assert frozenset(draw.sample(sorted(left[name]), count)) == reserved.validation[name]


def test_training_sees_no_reserved_and_no_validation_class_and_no_query(data_packs: Path) -> None:
    reserved = load_reserved()
    for name in ("grocery", "clothing", "places_indoor"):
        pack = open_pack(data_packs / name)
        trained, chosen_by = training_records(pack, reserved), validation_records(pack, reserved)

        forbidden = reserved.reserved[name] | reserved.validation[name]
        assert not {record.label for record in [*trained, *chosen_by]} & forbidden
        assert {record.split for record in trained} <= {"train", "iconic", "gallery"}
        assert not {record.path for record in trained} & {record.path for record in chosen_by}


def test_the_parts_of_the_sample_catalogue_do_not_overlap_where_they_must_not(data_packs: Path) -> None:
    reserved = load_reserved()
    parts = parts_of(open_packs([data_packs]), reserved)
    gallery = {(pack.name, record.path) for pack, record in parts.gallery}

    for part in (parts.queries, parts.reserved, parts.distractors):
        assert not gallery & {(pack.name, record.path) for pack, record in part}
    assert {
        (pack.name, record.path) for pack, record in [*parts.training, *parts.known, *parts.unknown]
    } == gallery
    assert all(reserved.is_reserved(pack.name, record.label) for pack, record in parts.reserved)
    assert {labelled_name(record) for _, record in parts.distractors} == {None}


def test_a_list_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reserved.json").write_text('{"reserved": []}', encoding="utf-8")

    with pytest.raises(ValueError, match=r"expected \{reserved: \{pack"):
        load_reserved(tmp_path / "reserved.json")
