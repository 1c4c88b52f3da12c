"""Corrector bundles in MODEL_DIR/correctors: kept by digest, verified when read, opened once per process.

A bundle names trunks by digest; here they become the names of this installation's versions.
"""

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q

from ml.artifacts import BundleError
from ml.corrector_map import CorrectorMap
from ml.methods.corrector.bundle import (
    CorrectorBundle,
    TrunkMap,
    corrector_bundle_load,
    corrector_bundle_write,
)
from searchapp.models import GalleryView, ModelVersion

MOST_OPEN = 4  # bundles that a process keeps: those of the versions in use and of the ones before
FOLDER = "correctors"

_open: dict[str, CorrectorBundle] = {}
_opening = threading.Lock()


def corrector_of(digest: str) -> Mapping[str, CorrectorMap]:
    """By the name of every version whose raw entries it corrects, the map to apply; empty for no digest.

    All increments of one M share a map, those learned after it was fitted too. Raises ml.artifacts.BundleError when the
    bundle is damaged, FileNotFoundError when it is gone.
    """
    return {name: one.corrector for name, one in trunk_maps_of(digest).items()}


def trunk_maps_of(digest: str) -> Mapping[str, TrunkMap]:
    """As `corrector_of`: map, predicted error and probe report."""
    if not digest:
        return {}
    maps = corrector_bundle(digest).maps
    trunks = ModelVersion.objects.filter(digest__in=maps)
    majors = dict(trunks.values_list("major", "digest"))
    rows = ModelVersion.objects.filter(major__in=majors).order_by("major", "minor")
    return {row.name: maps[majors[row.major]] for row in rows}


def corrector_bundle(digest: str) -> CorrectorBundle:
    """The verified bundle, kept open by this process. Raises what `corrector_of` does."""
    found = _open.get(digest)
    if found is None:
        with _opening:
            found = _open.get(digest)
            if found is None:
                found = corrector_bundle_load(_stored(digest))
                if found.digest != digest:
                    raise BundleError(f"the corrector kept as {digest} is {found.digest}")
                while len(_open) >= MOST_OPEN:
                    _open.pop(next(iter(_open)))
                _open[digest] = found
    return found


def corrector_store(
    *, target: str, maps: Mapping[str, TrunkMap], given_up: Mapping[str, str], fitting: Mapping[str, Any]
) -> CorrectorBundle:
    """Write a bundle to its place; writing the same one again changes nothing."""
    return corrector_bundle_write(_folder(), target=target, maps=maps, given_up=given_up, fitting=fitting)


def is_kept(digest: str) -> bool:
    """Whether there is such a bundle."""
    return _stored(digest).is_dir()


def corrector_drop(digest: str) -> None:
    """Remove a bundle that no view came to use; one that is used stays, and so does what is not there."""
    if digest and not GalleryView.objects.filter(corrector_digest=digest).exists():
        _open.pop(digest, None)
        shutil.rmtree(_stored(digest), ignore_errors=True)


def newest_corrected_view(version: ModelVersion) -> GalleryView | None:
    """The view of `version` through the corrector that was fitted last; None when there is none."""
    return GalleryView.objects.filter(~Q(corrector_digest=""), version=version).order_by("-pk").first()


def _folder() -> Path:
    folder: Path = settings.MODEL_DIR / FOLDER
    return folder


def _stored(digest: str) -> Path:
    return _folder() / digest


def _after_fork() -> None:
    global _opening  # noqa: PLW0603
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
