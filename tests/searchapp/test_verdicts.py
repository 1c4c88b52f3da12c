"""The verdict on a version: what it measures is what would be served, and its gates say what their limits allow."""

from pathlib import Path
from typing import Any

import pytest

from ml.artifacts import load_bundle
from searchapp.models import ItemImage, ModelVersion
from searchapp.services import holding_out, verdicts, versions
from tests.searchapp.trainings import OTHER_BUNDLE, small_shop

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def upgrade() -> ModelVersion:
    """Other weights as 2.0 of the same lineage, with no entry yet."""
    champion = versions.champion().version
    versions.bundle_store(OTHER_BUNDLE)
    return versions.version_register(
        load_bundle(OTHER_BUNDLE).manifest, number=(2, 0), size_bytes=1_000, parent=champion
    )


def hold_out() -> None:
    holding_out.hold_out(list(ItemImage.objects.values_list("item__category__path", flat=True).distinct()))


def test_first(data_dir: Path, data_packs: Path) -> None:
    small_shop(data_packs, classes=3, count=9)
    hold_out()
    version = upgrade()
    verdict = verdicts.verdict_make(version, versions.champion().version)
    import json

    print(json.dumps(verdicts.report_of(verdict), indent=1))
    print(verdicts.promised_cell(verdict), verdicts.cell_measured(version))
