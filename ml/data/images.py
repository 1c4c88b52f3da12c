"""Images of one or more packs held as one uint8 tensor, a little larger than the encoder's input."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ml.data.packs import Pack, PackRecord
from ml.data.preprocessing import decode_to_input
from ml.data.reserved import ReservedClasses

# Packs without a val split (places) give the last frames of each longer clip instead.
HELD_OUT_FRAMES = 2
MIN_CLIP_FRAMES = 8


@dataclass(frozen=True, slots=True)
class ImageSet:
    """N images. `labels` index `names` ("<pack>:<label>"); -1 marks an image without a label."""

    pixels: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N,) int64
    names: tuple[str, ...]
    packs: tuple[str, ...]  # pack name of each image
    fingerprint: str  # SHA-256 over the sorted lines "<pack>/<path> <label> <sha256 of the file>"

    def __len__(self) -> int:
        return len(self.labels)


def labelled_name(record: PackRecord) -> str | None:
    """The label as it stands in a label registry: "<pack>:<label>", or None without a label."""
    return None if record.label is None else f"{record.pack}:{record.label}"


def load_images(
    sources: Sequence[tuple[Pack, PackRecord]], size: int, *, names: Sequence[str] | None = None
) -> ImageSet:
    """Decode the records to (N, 3, size, size). Labels outside `names` (default: all found) become -1."""
    if not sources:
        raise ValueError("no image matches: nothing to load")
    found = [labelled_name(record) for _, record in sources]
    registry = (
        tuple(names) if names is not None else tuple(sorted({name for name in found if name is not None}))
    )
    index = {name: position for position, name in enumerate(registry)}
    pixels = np.empty((len(sources), size, size, 3), dtype=np.uint8)
    lines = []
    for position, (pack, record) in enumerate(sources):
        data = pack.read(record)
        pixels[position] = decode_to_input(data, size)
        lines.append(f"{pack.name}/{record.path} {record.label} {hashlib.sha256(data).hexdigest()}\n")
    return ImageSet(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(
            [index.get(name, -1) if name is not None else -1 for name in found], dtype=torch.int64
        ),
        names=registry,
        packs=tuple(pack.name for pack, _ in sources),
        fingerprint=hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(),
    )


def training_records(pack: Pack, reserved: ReservedClasses) -> list[PackRecord]:
    """What 1.0 trains on: train, iconic and gallery images of trainable labels, less the held-out frames."""
    return _split_gallery(pack, lambda record: reserved.is_trainable(pack.name, record.label))[0]


def validation_records(pack: Pack, reserved: ReservedClasses) -> list[PackRecord]:
    """Queries of trained labels that choose settings: the val split, or each clip's last gallery frames."""
    return _split_gallery(pack, lambda record: reserved.is_trainable(pack.name, record.label))[1]


def _split_gallery(
    pack: Pack, wanted: Callable[[PackRecord], bool]
) -> tuple[list[PackRecord], list[PackRecord]]:
    records = [record for record in pack.records("train", "val", "iconic", "gallery") if wanted(record)]
    if "frame" not in pack.header:
        return [r for r in records if r.split != "val"], [r for r in records if r.split == "val"]
    held_out = held_out_frames(records)
    return [r for r in records if r.path not in held_out], [r for r in records if r.path in held_out]


def held_out_frames(records: Iterable[PackRecord]) -> set[str]:
    """Paths of the last two frames of every clip of eight or more; neighbouring frames are near copies."""
    clips: dict[str | None, list[PackRecord]] = defaultdict(list)
    for record in records:
        clips[record.label].append(record)
    return {
        record.path
        for clip in clips.values()
        if len(clip) >= MIN_CLIP_FRAMES
        for record in sorted(clip, key=lambda r: int(r.columns["frame"]))[-HELD_OUT_FRAMES:]
    }


def labelled(images: ImageSet) -> ImageSet:
    """Those of the images that have a label; the very same object when all have."""
    kept = torch.nonzero(images.labels >= 0).flatten()
    if len(kept) == len(images):
        return images
    return ImageSet(
        pixels=images.pixels[kept],
        labels=images.labels[kept],
        names=images.names,
        packs=tuple(images.packs[row] for row in kept.tolist()),
        fingerprint=hashlib.sha256(f"{images.fingerprint} labelled".encode()).hexdigest(),
    )
