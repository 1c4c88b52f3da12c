"""What a corrector bundle keeps, that it is served without torch as it was fitted, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ml.artifacts import MANIFEST_FILE, BundleError, content_digest
from ml.corrector_map import CorrectorMap, ErrorMap
from ml.methods.corrector.bundle import (
    MAPS_FILE,
    CorrectorBundle,
    TrunkMap,
    corrector_bundle_load,
    corrector_bundle_write,
    report_values,
)
from ml.methods.corrector.config import FitConfig
from ml.methods.corrector.fitting import Fitted, fit_corrector
from ml.methods.corrector.predicted_error import ErrorHead, fit_error_head
from tests.ml.corrector.worlds import bent, directions

D = 8
SOURCE, TARGET = "a" * 64, "b" * 64
CONFIG = FitConfig(steps=20, check_every=10)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    found = fit_corrector(bent(200, D), bent(60, D, seed=1), CONFIG)
    assert found.kind == "full"
    return found


@pytest.fixture(scope="module")
def errors(fitted: Fitted) -> ErrorHead:
    pairs = bent(200, D)
    return fit_error_head(pairs.stale, np.exp(2 * pairs.stale[:, 0]).astype(np.float64))


def arrays(module: Any) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.fixture
def bundle(tmp_path: Path, fitted: Fitted, errors: ErrorHead) -> CorrectorBundle:
    return written(tmp_path, fitted, errors)


def written(folder: Path, fitted: Fitted, errors: ErrorHead) -> CorrectorBundle:
    one = TrunkMap(
        CorrectorMap.of(arrays(fitted.corrector)), ErrorMap.of(arrays(errors)), report_values(fitted.report)
    )
    return corrector_bundle_write(
        folder,
        target=TARGET,
        maps={SOURCE: one},
        given_up={"c" * 64: "it does not help"},
        fitting={"fitted_on": 260},
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_what_is_served_without_torch_is_what_was_fitted(fitted: Fitted, kind: type) -> None:
    stale: NDArray[Any] = directions(5_000, D, seed=3).astype(kind)
    served = CorrectorMap.of(arrays(fitted.corrector)).corrected(stale)
    assert served.dtype == kind
    np.testing.assert_allclose(
        served.astype(np.float32),
        fitted.corrector.corrected(stale).astype(np.float32),
        atol=1e-6 if kind is np.float32 else 1e-3,
    )


def test_a_row_is_corrected_alike_whichever_rows_stand_beside_it() -> None:
    rng = np.random.default_rng(0)
    shapes = {"affine": (128, 128), "offset": (128,), "inner": (256, 128), "inner_offset": (256,)}
    drawn = {name: rng.normal(size=shape) / 20 for name, shape in {**shapes, "outer": (128, 256)}.items()}
    served = CorrectorMap.of({name: values.astype(np.float32) for name, values in drawn.items()})
    stale = directions(5_000, 128)
    everything = served.corrected(stale)
    for count in (1, 2, 7, 100, 2_049):
        rows = rng.permutation(len(stale))[:count]
        np.testing.assert_array_equal(served.corrected(stale[rows]), everything[rows])


def test_predicted_errors_without_torch_are_those_of_the_head(errors: ErrorHead) -> None:
    stale = directions(3_000, D, seed=4)
    served = ErrorMap.of(arrays(errors)).predicted(stale)
    np.testing.assert_allclose(served, errors.predicted(stale), rtol=1e-5)
    assert served.std() > 0


def test_a_bundle_keeps_maps_reports_and_reasons(bundle: CorrectorBundle, fitted: Fitted) -> None:
    assert (bundle.target, bundle.dimension, list(bundle.maps)) == (TARGET, D, [SOURCE])
    assert bundle.given_up == {"c" * 64: "it does not help"}
    assert bundle.maps[SOURCE].report["error"] == pytest.approx(fitted.report.error, abs=1e-6)
    stale = directions(10, D)
    np.testing.assert_array_equal(
        bundle.maps[SOURCE].corrector.corrected(stale),
        CorrectorMap.of(arrays(fitted.corrector)).corrected(stale),
    )


def test_the_same_maps_have_the_same_digest_and_are_written_once(
    tmp_path: Path, fitted: Fitted, errors: ErrorHead
) -> None:
    first = written(tmp_path, fitted, errors)
    before = (tmp_path / first.digest / MAPS_FILE).stat().st_mtime_ns
    assert written(tmp_path, fitted, errors).digest == first.digest
    assert (tmp_path / first.digest / MAPS_FILE).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [first.digest]


def test_loading_needs_no_torch(tmp_path: Path, bundle: CorrectorBundle) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from ml.methods.corrector.bundle import corrector_bundle_load;"
        f"corrector_bundle_load(Path({str(tmp_path / bundle.digest)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def manifest_with(**changes: Any) -> Callable[[Path], None]:
    """A manifest whose digest fits what was changed in it."""

    def damage(folder: Path) -> None:
        source = folder / MANIFEST_FILE
        plain = {**json.loads(source.read_text()), **changes}
        source.write_text(json.dumps({**plain, "digest": content_digest(plain)}))

    return damage


def tensors_with(**changes: Any) -> Callable[[Path], None]:
    """Files whose sums fit what was changed in one tensor of the map."""

    def damage(folder: Path) -> None:
        tensors = load((folder / MAPS_FILE).read_bytes())
        for name, value in changes.items():
            tensors[f"{SOURCE}/map/{name}"] = value
        corrector_bundle_rewrite(folder, save(tensors))

    return damage


def corrector_bundle_rewrite(folder: Path, data: bytes) -> None:
    (folder / MAPS_FILE).write_bytes(data)
    manifest_with(files={MAPS_FILE: {"sha256": sha256(data).hexdigest(), "bytes": len(data)}})(folder)


def flip(folder: Path) -> None:
    data = bytearray((folder / MAPS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / MAPS_FILE).write_bytes(bytes(data))


def edit(folder: Path) -> None:
    source = folder / MANIFEST_FILE
    source.write_text(source.read_text().replace('"fitted_on": 260', '"fitted_on": 261'))


def linked(folder: Path) -> None:
    (folder / MAPS_FILE).rename(folder.parent / "elsewhere")
    (folder / MAPS_FILE).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "SHA-256"),
        (edit, "digest"),
        (linked, "not a regular file"),
        (lambda folder: (folder / MAPS_FILE).write_bytes(b""), "bytes"),
        (lambda folder: (folder / "more.pkl").write_bytes(b"x"), "expected exactly"),
        (lambda folder: corrector_bundle_rewrite(folder, b"\x80\x04N."), "header"),
        (manifest_with(kind="encoder"), "'encoder'"),
        (manifest_with(format=2), "format 2"),
        (manifest_with(more=1), "unknown keys"),
        (manifest_with(target="../../etc"), "digests"),
        (manifest_with(dimension=9), "not 9"),
        (manifest_with(maps={}), "belongs to no map"),
        (tensors_with(outer=np.full((D, 2 * D), np.nan, np.float32)), "not finite"),
        (tensors_with(offset=np.zeros(D + 1, np.float32)), "affine"),
        (tensors_with(offset=np.zeros(D, np.float16)), "float16"),
        (tensors_with(extra=np.zeros(D, np.float32)), "extra"),
    ],
)
def test_a_damaged_or_foreign_bundle_is_refused_with_its_reason(
    tmp_path: Path, bundle: CorrectorBundle, damage: Callable[[Path], None], reason: str
) -> None:
    folder = tmp_path / bundle.digest
    damage(folder)
    with pytest.raises(BundleError, match=reason):
        corrector_bundle_load(folder)


def test_a_map_refuses_rows_of_another_width_or_type(bundle: CorrectorBundle) -> None:
    served = bundle.maps[SOURCE]
    for rows in (directions(3, D + 1), directions(3, D).astype(np.float64)):
        with pytest.raises(ValueError, match="expected float16 or float32"):
            served.corrector.corrected(rows)
        with pytest.raises(ValueError, match="expected float16 or float32"):
            served.errors.predicted(rows)
