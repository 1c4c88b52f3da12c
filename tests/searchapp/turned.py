"""Versions of one lineage without a training: the parent's encoder with its embeddings turned by some degrees."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from django.db import transaction
from django.db.models import Max
from numpy.typing import NDArray

from ml.artifacts import Bundle, write_bundle
from ml.models.graph import parsed_graph
from searchapp.models import GalleryView, ModelVersion
from searchapp.services import versions


def turned_version(
    parent: ModelVersion, *, degrees: float = 20.0, seed: int = 0, labels: list[str] | None = None
) -> ModelVersion:
    """The next `M.0` of the parent's lineage: same codes, embeddings turned; its bundle tells of its own alone."""
    source = versions.bundle_of(parent)
    with TemporaryDirectory() as folder:
        bundle = _turned(source, Path(folder) / "bundle", degrees, seed)
        versions.bundle_store(bundle.path)
        highest = ModelVersion.objects.aggregate(highest=Max("major"))["highest"]
        with transaction.atomic():
            version = versions.version_register(
                bundle.manifest,
                number=(highest + 1, 0),
                size_bytes=1,
                parent=parent,
                labels=parent.label_registry if labels is None else labels,
            )
            GalleryView.objects.create(version=version)
    return version


def rotation(dimension: int, degrees: float, seed: int) -> NDArray[np.float32]:
    """(D, D): turns every pair of coordinates of a random basis by so many degrees."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))
    angle = np.deg2rad(degrees)
    turn = np.kron(np.eye(dimension // 2), [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(basis @ turn @ basis.T, np.float32)


def _turned(source: Bundle, target: Path, degrees: float, seed: int) -> Bundle:
    made = source.manifest
    weights = dict(source.weights)
    turn = rotation(made.dimension, degrees, seed)
    graph = parsed_graph(source.graph)
    for name in [name for name in weights if name.startswith("embedding_head.")]:
        weights[name] = np.ascontiguousarray(turn @ source.weights[name])
        _replace(graph, source.weights[name], weights[name])
    return write_bundle(
        target,
        method=made.method,
        config=made.encoder_config,
        weights=weights,
        graph=graph.SerializeToString(),
        labels=made.labels,
        calibration={"self": source.calibration},
        preprocessing=made.preprocessing,
        metrics={},
        training={"turned": degrees, "seed": seed},
    )


def _replace(graph: onnx.ModelProto, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Put other numbers in the place of a weight; exporting the encoder again would take seconds."""
    for tensor in graph.graph.initializer:
        found = onnx.numpy_helper.to_array(tensor)
        for there, instead in ((before, after), (before.T, after.T)):
            if found.shape == there.shape and np.array_equal(found, there):
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(instead), tensor.name))
                return
    raise AssertionError("the graph does not hold the weight")
