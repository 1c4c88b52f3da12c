"""Trains and measures one arm: from images to a row of figures and its per-query values."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import nn
from torch.nn import functional as F  # noqa: N812

from ml.base_version.recipe import Recipe, Trained, train_encoder
from ml.config import config_from_dict
from ml.data.images import ImageSet
from ml.evaluation.retrieval import retrieval_values, signs_of
from ml.experiments.data import Dataset, Part
from ml.experiments.ledger import RunRecord
from ml.models.config import EncoderConfig
from ml.models.encoder import ImageEncoder
from ml.models.export import encoder_from_weights, export_onnx, weights_of
from ml.models.involution import Involution
from ml.models.quantisation import variants
from ml.onnx_encoder import OnnxEncoder, open_encoder_of
from ml.protocol import Encoded

SHIFTS = (4, 8)  # pixels
SHIFT_QUERIES = 1_000  # at most; each is asked in the four directions
VALIDATION_GALLERY = 10_000  # entries at most
LATENCY_ROUNDS = 60
CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Task:
    """One run: which arm, on what, from which seed."""

    name: str
    setting: str
    seed: int
    dataset: Dataset
    recipe: Recipe
    label_noise: float = 0.0  # share of the training labels replaced, [0, 1); the gallery's stay true
    teacher: Callable[[], ImageEncoder] | None = None  # trained when it is asked for


def measure_size(task: Task, checkpoint: Path) -> RunRecord:
    """Train for C1 with validation, export, and measure every exported form (float32, float16, int8)."""
    started, dataset = time.monotonic(), task.dataset
    trained = train_encoder(
        dataset.train.images,
        replace(task.recipe, seed=task.seed),
        checkpoint=checkpoint,
        validate=validation_of(dataset),
    )
    graph = export_onnx(trained.encoder)
    values: dict[str, float | int | str] = _training_values(trained)
    per_query: dict[str, NDArray[np.float64]] = {}
    forms = variants(graph)
    encoder = open_encoder_of(graph, trained.encoder.config)
    gallery, queries = encode(encoder, dataset.train), encode(encoder, dataset.test)
    per_query |= _retrieval(gallery, queries, dataset, deep=True)
    values |= _further(gallery, queries, dataset)
    asked = encode(encoder, dataset.validation)
    right = _is_right(asked.embeddings, gallery.embeddings, dataset, dataset.validation)
    values["recall_at_1_validation"] = float(np.nanmean(right))
    per_query |= _smaller_files(forms, trained.encoder, dataset)
    values |= _costs(forms, trained.encoder)
    values |= {"multiply_adds": multiply_adds(trained.encoder), "file_bytes": len(graph)}
    return _record(task, values, per_query, started, files={"encoder.onnx": graph})


def measure_control(task: Task, checkpoint: Path) -> RunRecord:
    """Train for C2 for a fixed number of epochs and measure the float32 export, shifted queries included."""
    started, dataset = time.monotonic(), task.dataset
    trained = train_encoder(
        with_label_noise(dataset.train.images, task.label_noise, task.seed),
        replace(task.recipe, seed=task.seed),
        checkpoint=checkpoint,
        teacher=None if task.teacher is None else task.teacher(),
    )
    graph = export_onnx(trained.encoder)
    encoder = open_encoder_of(graph, trained.encoder.config)
    gallery, queries = encode(encoder, dataset.train), encode(encoder, dataset.test)
    per_query = _retrieval(gallery, queries, dataset, deep=False)
    for pixels in SHIFTS:
        per_query[f"recall_at_1_shift_{pixels}"] = shifted_recall(encoder, gallery, dataset, pixels)
    values = _training_values(trained) | _further(gallery, queries, dataset)
    if dataset.unseen_gallery is not None and dataset.unseen_queries is not None:
        values |= _unseen(encoder, dataset.unseen_gallery, dataset.unseen_queries)
    if task.teacher is not None:  # C2b asks for the student's smaller files too
        forms = variants(graph)
        per_query |= _smaller_files(forms, trained.encoder, dataset)
        values |= _costs(forms, trained.encoder)
    return _record(task, values, per_query, started, files=_kept(trained.encoder))


def _smaller_files(
    forms: Mapping[str, bytes], trained: ImageEncoder, dataset: Dataset
) -> dict[str, NDArray[np.float64]]:
    """Recall@1 of embeddings and of codes for every form but the float32 one, gallery and queries alike."""
    found = {}
    for form in forms.keys() - {"fp32"}:
        encoder = open_encoder_of(forms[form], trained.config)
        gallery, queries = encode(encoder, dataset.train), encode(encoder, dataset.test)
        found[f"recall_at_1_{form}"] = _is_right(
            queries.embeddings, gallery.embeddings, dataset, dataset.test
        )
        found[f"code_recall_at_1_{form}"] = _is_right(
            signs_of(queries.packed_codes), signs_of(gallery.packed_codes), dataset, dataset.test
        )
    return found


def _costs(forms: Mapping[str, bytes], trained: ImageEncoder) -> dict[str, float | int | str]:
    """Bytes and milliseconds of each form."""
    latency = _latencies(forms, trained)
    costs: dict[str, float | int | str] = {}
    for form, data in forms.items():
        costs |= {f"bytes_{form}": len(data), f"batch_1_ms_{form}": latency[form]}
    return costs


def _kept(encoder: ImageEncoder) -> dict[str, bytes]:
    config = json.dumps(asdict(encoder.config)).encode()
    return {CONFIG_FILE: config, WEIGHTS_FILE: save(weights_of(encoder))}


def kept_encoder(files: Mapping[str, bytes]) -> ImageEncoder:
    """The encoder that `measure_control` kept with its record."""
    config = config_from_dict(EncoderConfig, json.loads(files[CONFIG_FILE]))
    return encoder_from_weights(config, load(files[WEIGHTS_FILE]))


def encode(encoder: OnnxEncoder, part: Part) -> Encoded:
    """Codes and embeddings of a part's images, in order, by the serving engine."""
    return encode_pixels(encoder, part.images.pixels)


def encode_pixels(encoder: OnnxEncoder, pixels: torch.Tensor) -> Encoded:
    """(N, C, S, S) uint8 -> codes and embeddings; a grey picture is shown as red = green = blue."""
    coloured = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
    parts = [
        encoder.encode(np.ascontiguousarray(chunk.permute(0, 2, 3, 1).numpy()))
        for chunk in torch.split(coloured, _CHUNK)
    ]
    return Encoded(
        np.concatenate([part.packed_codes for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
    )


def with_label_noise(images: ImageSet, share: float, seed: int) -> ImageSet:
    """The images with `share` of the labels replaced by one of the other classes, drawn evenly."""
    generator = torch.Generator().manual_seed(seed)
    count, classes = len(images), len(images.names)
    wrong = torch.randperm(count, generator=generator)[: round(share * count)]
    labels = images.labels.clone()
    labels[wrong] += torch.randint(1, classes, (len(wrong),), generator=generator)
    return replace(images, labels=labels % classes)


def shifted(pixels: torch.Tensor, right: int, down: int) -> torch.Tensor:
    """(N, C, S, S) uint8 moved by whole pixels; what comes into view repeats the border."""
    size = pixels.shape[-1]
    columns = (torch.arange(size) - right).clamp(0, size - 1)
    rows = (torch.arange(size) - down).clamp(0, size - 1)
    return pixels[:, :, rows][:, :, :, columns]


def shifted_recall(
    encoder: OnnxEncoder, gallery: Encoded, dataset: Dataset, pixels: int
) -> NDArray[np.float64]:
    """(Q,) Recall@1 of queries moved by `pixels`, mean over the four directions; NaN for those not asked."""
    count = len(dataset.test)
    asked = np.linspace(0, count - 1, min(count, SHIFT_QUERIES)).round().astype(np.int64)
    images = dataset.test.images.pixels[torch.from_numpy(asked)]
    labels = dataset.test.labels()[asked]
    found = np.zeros(len(asked))
    for right, down in ((pixels, 0), (-pixels, 0), (0, pixels), (0, -pixels)):
        moved = encode_pixels(encoder, shifted(images, right, down))
        found += dataset.train.labels()[_nearest(moved.embeddings, gallery.embeddings)] == labels
    values = np.full(count, np.nan)
    values[asked] = np.where(labels < 0, np.nan, found / 4)
    return values


def validation_of(dataset: Dataset) -> Callable[[nn.Module], float]:
    """mAP@100 of the validation images in a training gallery of at most 10,000 entries, evenly spaced."""
    rows = np.linspace(0, len(dataset.train) - 1, min(len(dataset.train), VALIDATION_GALLERY)).round()
    chosen = torch.from_numpy(rows.astype(np.int64))

    def validate(encoder: nn.Module) -> float:
        gallery = _embed(encoder, dataset.train.images.pixels[chosen])
        queries = _embed(encoder, dataset.validation.images.pixels)
        values = retrieval_values(
            queries, dataset.validation.labels(), gallery, dataset.train.labels()[chosen.numpy()], deep=False
        )
        return values.means()["map_at_100"]

    return validate


def multiply_adds(encoder: ImageEncoder) -> int:
    """Multiply-adds of one image, counted where they happen: convolutions, linear layers, involution sums."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()
        elif isinstance(module, Involution):  # the involution's own sums, beside its two 1 x 1 convolutions
            total += output[0].numel() * module.kernel_size**2

    hooks = [module.register_forward_hook(count) for module in encoder.modules()]
    size = encoder.config.input_size
    with torch.no_grad():
        encoder.eval()(torch.zeros(1, encoder.config.trunk.channels, size, size))
    for hook in hooks:
        hook.remove()
    return total


def _record(
    task: Task,
    values: dict[str, float | int | str],
    per_query: dict[str, NDArray[np.float64]],
    started: float,
    *,
    files: Mapping[str, bytes],
) -> RunRecord:
    means = {metric: float(np.nanmean(found)) for metric, found in per_query.items()}
    return RunRecord(
        name=task.name, setting=task.setting, seed=task.seed, values=values | means, per_query=per_query,
        seconds=time.monotonic() - started, items=task.dataset.test.items, files=files,
    )  # fmt: skip


def _training_values(trained: Trained) -> dict[str, float | int | str]:
    encoder = trained.encoder
    return {
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "epochs": trained.epochs,
        "training_seconds": round(trained.seconds, 1),
        "loss": round(trained.history[-1]["loss"], 4),
    }


def _retrieval(
    gallery: Encoded, queries: Encoded, dataset: Dataset, *, deep: bool
) -> dict[str, NDArray[np.float64]]:
    """Every metric of the embeddings, and Recall@1 and mAP@100 of the codes."""
    query_labels, gallery_labels = dataset.test.labels(), dataset.train.labels()
    found = retrieval_values(queries.embeddings, query_labels, gallery.embeddings, gallery_labels, deep=deep)
    codes = retrieval_values(
        signs_of(queries.packed_codes),
        query_labels,
        signs_of(gallery.packed_codes),
        gallery_labels,
        deep=False,
    )
    return found.per_query() | {
        "code_recall_at_1": codes.recall_at_1,
        "code_map_at_100": codes.map_at_100,
    }


def _further(gallery: Encoded, queries: Encoded, dataset: Dataset) -> dict[str, float | int | str]:
    """Leave-one-out within the test split (section 6), and how much the codes' bits are used."""
    labels = dataset.test.labels()
    own = retrieval_values(
        queries.embeddings, labels, queries.embeddings, labels, left_out=np.arange(len(labels)), deep=False
    )
    return {
        "recall_at_1_within_test": own.means()["recall_at_1"],
        "distinct_codes": len(np.unique(gallery.packed_codes, axis=0)) / len(gallery.packed_codes),
    }


def _is_right(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], dataset: Dataset, asked: Part
) -> NDArray[np.float64]:
    """(Q,) 1.0 where the nearest training image has the query's label; NaN for a class without any."""
    nearest = dataset.train.labels()[_nearest(queries, gallery)]
    return np.where(asked.labels() < 0, np.nan, nearest == asked.labels())


def _unseen(encoder: OnnxEncoder, gallery: Part, queries: Part) -> dict[str, float | int | str]:
    """Reserved classes, searched among themselves: classes the encoder was never trained on."""
    entries, asked = encode(encoder, gallery), encode(encoder, queries)
    found = retrieval_values(
        asked.embeddings, queries.labels(), entries.embeddings, gallery.labels(), deep=False
    ).means()
    return {"unseen_recall_at_1": found["recall_at_1"], "unseen_map_at_100": found["map_at_100"]}


def _nearest(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.int64]:
    """(Q,) row of the most similar entry; ties to the lower row."""
    blocks = [
        np.argmax(queries[start : start + _CHUNK] @ gallery.T, axis=1)
        for start in range(0, len(queries), _CHUNK)
    ]
    return np.concatenate(blocks)


@torch.no_grad()
def _embed(encoder: nn.Module, pixels: torch.Tensor) -> NDArray[np.float32]:
    parts = [
        encoder((chunk.float() / 255.0).contiguous(memory_format=torch.channels_last))[1]
        for chunk in torch.split(pixels, _CHUNK)
    ]
    return F.normalize(torch.cat(parts).float(), dim=1).numpy()


def _latencies(graphs: Mapping[str, bytes], encoder: ImageEncoder) -> dict[str, float]:
    """Median milliseconds of one picture, the forms taking turns: trust the ratios."""
    size = encoder.config.input_size
    picture = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    opened = {form: open_encoder_of(data, encoder.config) for form, data in graphs.items()}
    times: dict[str, list[float]] = {form: [] for form in opened}
    for _ in range(LATENCY_ROUNDS):
        for form, session in opened.items():
            started = time.perf_counter()
            session.encode(picture)
            times[form].append(time.perf_counter() - started)
    return {form: round(float(np.median(found)) * 1000, 4) for form, found in times.items()}
