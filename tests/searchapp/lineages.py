"""Versions of one lineage that cost nothing: the shipped bundles again, under another digest and number."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from django.conf import settings

from ml.artifacts import MANIFEST_FILE, content_digest, read_manifest
from ml.protocol import Calibration
from searchapp.models import GalleryView, ModelVersion
from searchapp.services import measuring, versions
from searchapp.services.held_out import held_out_fingerprint, held_out_queries
from tests.conftest import ROOT

SHIPPED, OTHER = ROOT / "ml" / "weights" / "default", ROOT / "ml" / "weights" / "budget"


def descendant(
    number: str = "2.0",
    *,
    source: Path = OTHER,
    parent: ModelVersion | None = None,
    calibration: Mapping[str, Calibration] | None = None,
) -> ModelVersion:
    """A version M.0 that may search what `parent` (1.0) has stored. calibration: by digest, beside its own."""
    parent = parent or versions.default_version_ensure()
    folder = Path(settings.MODEL_DIR) / ".made"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    plain = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    told = {name: asdict(values) for name, values in (calibration or {}).items()}
    plain |= {"training": {"number": number}, "calibration": {**plain["calibration"], **told}}
    plain["digest"] = content_digest(plain)
    (folder / MANIFEST_FILE).write_text(
        json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    versions.bundle_store(folder)
    major, minor = map(int, number.split("."))
    version = versions.version_register(
        read_manifest(folder),
        number=(major, minor),
        size_bytes=1,
        parent=parent,
        labels=parent.label_registry,
    )
    GalleryView.objects.create(version=version)
    shutil.rmtree(folder)
    return version


def passed(version: ModelVersion) -> ModelVersion:
    """As if it had been measured against the version in use and every gate had passed."""
    gate = {"name": "map_loss", "threshold": 0.01, "value": -0.1, "low": -0.2, "high": 0.0, "verdict": "pass"}
    comparison = measuring.Comparison(
        {"n": 9}, {"n": 9}, {}, [gate], held_out_fingerprint(held_out_queries())
    )
    measuring.comparison_store(version, versions.champion().version, comparison)
    return version
