"""The data of experiments: real packs, digits and class folders, sorted into parts that share nothing."""

import gzip
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.data import idx
from ml.data.folders import open_folders
from ml.data.images import held_out_frames, load_images
from ml.data.packs import open_pack
from ml.data.reserved import load_reserved
from ml.evaluation.retrieval import retrieval_values
from ml.experiments.data import Dataset, Described, Part, class_split, few, joined_dataset, open_dataset
from ml.experiments.data.joining import with_unseen_queries
from tests.ml.conftest import TINY


def parts_of(dataset: Dataset) -> dict[str, Part]:
    names = ("train", "validation", "test", "unseen_gallery", "unseen_queries")
    found = {name: getattr(dataset, name) for name in names}
    return {name: part for name, part in found.items() if part is not None}


@pytest.mark.parametrize(
    ("name", "classes", "images", "items"),
    [
        ("grocery", 57, [1939, 214, 1794, 452, 353], [57, 43, 57, 12, 12]),
        ("clothing", 12, [3195, 365, 384, 710, 98], [3195, 365, 384, 710, 98]),
        ("catalog", 10, [362, 62, 92, 113], [96, 16, 23, 24]),
        ("places_indoor", 79, [1266, 138, 344, 334, 86], [79, 69, 75, 20, 20]),
    ],
)
def test_a_pack_gives_its_parts_their_images_and_items(
    tiny_pack: Callable[[str], Dataset], name: str, classes: int, images: list[int], items: list[int]
) -> None:
    dataset = tiny_pack(name)
    parts = parts_of(dataset)

    assert (dataset.name, dataset.kind, len(dataset.classes)) == (name, "pack", classes)
    assert [len(part) for part in parts.values()] == images
    assert dataset.image_count == sum(images)
    assert [len(set(part.items.tolist())) for part in parts.values()] == items
    for part in parts.values():
        assert part.images.pixels.shape == (len(part), 3, TINY, TINY)
        assert part.labels().min() >= 0  # every class of the real packs is in training


def test_reserved_classes_are_seen_in_no_part_but_their_own(tiny_pack: Callable[[str], Dataset]) -> None:
    reserved = load_reserved().reserved
    for name in ("grocery", "clothing", "places_indoor"):
        dataset = tiny_pack(name)
        own = {f"{name}:{label}" for label in reserved[name]}
        assert not own & set(dataset.classes)
        for part in (dataset.unseen_gallery, dataset.unseen_queries):
            assert part is not None
            assert set(part.images.names) == own
            assert set(part.labels().tolist()) == set(range(len(own)))


def test_products_are_relevant_by_category_and_reserved_ones_by_product(
    tiny_pack: Callable[[str], Dataset],
) -> None:
    catalog = tiny_pack("catalog")

    assert "catalog:Jackets" in catalog.classes
    assert catalog.unseen_queries is None
    assert catalog.unseen_gallery is not None
    assert set(catalog.unseen_gallery.images.names) == {
        f"catalog:{product}" for product in load_reserved().reserved["catalog"]
    }


def test_a_pack_keeps_its_splits_and_places_hold_the_last_frames_out(
    tiny_pack: Callable[[str], Dataset], data_packs: Path
) -> None:
    reserved = load_reserved()

    pack = open_pack(data_packs / "grocery")
    wanted = {"train": {"train", "iconic"}, "validation": {"val"}, "test": {"test"}}
    for part, splits in wanted.items():
        records = [r for r in pack.records(*splits) if not reserved.is_reserved("grocery", r.label)]
        grocery = tiny_pack("grocery")
        expected = load_images([(pack, record) for record in records], TINY, names=grocery.classes)
        found = getattr(grocery, part).images
        assert found.fingerprint == expected.fingerprint
        assert (found.labels == expected.labels).all()
        assert (found.pixels == expected.pixels).all()

    places = open_pack(data_packs / "places_indoor")
    gallery = [r for r in places.records("gallery") if not reserved.is_reserved("places_indoor", r.label)]
    frames = held_out_frames(gallery)
    expected = load_images([(places, record) for record in gallery if record.path in frames], TINY)
    assert tiny_pack("places_indoor").validation.images.fingerprint == expected.fingerprint


def test_the_fingerprint_is_the_packs_own_at_every_size(
    tiny_pack: Callable[[str], Dataset], data_packs: Path
) -> None:
    larger = open_dataset(data_packs / "catalog")

    assert larger.train.images.pixels.shape == (362, 3, 64, 64)
    assert (
        larger.fingerprint
        == tiny_pack("catalog").fingerprint
        == open_pack(data_packs / "catalog").fingerprint()
    )


def known_of(part: Part | None, name: str) -> Described:
    """What is known of the first image of a class."""
    assert part is not None
    return part.described[int(np.argmax(part.labels() == part.images.names.index(name)))]


def test_a_photo_is_described_as_the_sample_catalogue_describes_it(
    tiny_pack: Callable[[str], Dataset],
) -> None:
    grocery, clothing, places = (tiny_pack(name) for name in ("grocery", "clothing", "places_indoor"))

    assert known_of(grocery.test, "grocery:Granny-Smith") == Described(
        categories=("grocery:group:Fruit", "grocery:coarse:Apple", "grocery:Granny-Smith"),
        tags=("granny", "smith"),
        text="Granny Smith. Granny Smith is a green apple with white, firm pulp and a clear acidity in the "
        "flavor.",
    )
    assert known_of(clothing.unseen_queries, "clothing:Longsleeve") == Described(
        categories=("clothing:Longsleeve",), tags=("adult",), text="Longsleeve", contributor="153"
    )
    assert known_of(places.unseen_gallery, "places_indoor:floor10/f10_elevator_main") == Described(
        categories=("places_indoor:class:floor10", "places_indoor:floor10/f10_elevator_main"),
        tags=("above-ground", "midrise", "elevator"),
        text="floor 10 elevator main",
    )
    misspelt = known_of(places.train, "places_indoor:floor10/f10_classrom_main")
    assert misspelt.text == "floor 10 classrom main classroom"
    clip = known_of(places.train, "places_indoor:basement2/b2_hallway_walkpath_c025")
    assert clip.text == "basement 2 hallway walkpath"


def test_a_product_is_described_by_its_category_and_never_is_one(
    tiny_pack: Callable[[str], Dataset],
) -> None:
    catalog = tiny_pack("catalog")

    hoodie = known_of(catalog.unseen_gallery, "catalog:MH07")
    assert hoodie.categories == ("catalog:coarse:Tops", "catalog:Hoodies & Sweatshirts")
    assert hoodie.tags == (
        "men", "colour:black", "material:fleece", "material:hemp", "material:polyester",
        "pattern:color-blocked", "climate:spring",
    )  # fmt: skip
    assert hoodie.text.startswith("Hero Hoodie. Gray and black color blocking sets you apart as")
    for part in parts_of(catalog).values():
        assert {known.categories[-1] for known in part.described} <= set(catalog.classes)


def test_a_tag_that_says_what_a_category_says_is_left_out(tiny_pack: Callable[[str], Dataset]) -> None:
    grocery, clothing = tiny_pack("grocery").train, tiny_pack("clothing").train

    assert known_of(grocery, "grocery:Passion-Fruit").tags == ("passion",)  # less fruit and passion-fruit
    assert known_of(grocery, "grocery:Alpro-Fresh-Soy-Milk").tags == ("brand:alpro", "fresh", "soy", "milk")
    assert known_of(clothing, "clothing:T-Shirt").tags == ("adult",)


def test_what_is_known_stays_with_its_picture_through_every_choice(
    tiny_pack: Callable[[str], Dataset],
) -> None:
    grocery, catalog = tiny_pack("grocery"), tiny_pack("catalog")

    for dataset in (few(grocery, 3, 20), joined_dataset([grocery, catalog]), with_unseen_queries(catalog)):
        for title, part in parts_of(dataset).items():
            owns = [part.images.names[label] for label in part.labels()]
            leaves = [known.categories[-1] for known in part.described]
            assert len(leaves) == len(part)
            products = {own for own, leaf in zip(owns, leaves) if own != leaf}
            assert not products or ("unseen" in title and all(own.startswith("catalog:") for own in products))
    split = class_split(grocery).images
    assert [split.images.names[label] for label in split.labels()] == [
        known.categories[-1] for known in split.described
    ]
    first = catalog.unseen_gallery
    assert first is not None
    asking = with_unseen_queries(catalog).unseen_queries
    assert asking is not None
    members = np.flatnonzero(first.labels() == 5)[1::2]
    assert [asking.described[row] for row in np.flatnonzero(asking.labels() == 5)] == [
        first.described[row] for row in members
    ]


def test_images_are_described_all_or_not_at_all(tiny_pack: Callable[[str], Dataset]) -> None:
    grocery, catalog = tiny_pack("grocery"), tiny_pack("catalog")

    with pytest.raises(ValueError, match="1 images are described, of 1939"):
        replace(grocery.train, described=grocery.train.described[:1])
    plain = replace(grocery, train=replace(grocery.train, described=()))
    assert few(plain, 3).train.described == ()
    assert joined_dataset([plain, catalog]).train.described == ()
    assert class_split(plain).images.described == ()


def test_digits_hold_five_thousand_out_alike_in_every_class(fashion: Dataset, data_packs: Path) -> None:
    raw = idx.read_split(data_packs / "fashion_mnist", "train")

    assert (fashion.name, fashion.kind, len(fashion.train), len(fashion.test)) == (
        "fashion_mnist", "digits", 55_000, 10_000,
    )  # fmt: skip
    assert fashion.classes[9] == "fashion_mnist:Ankle boot"
    boot = Described(categories=("fashion_mnist:Ankle boot",), tags=(), text="Ankle boot")
    for part in parts_of(fashion).values():
        assert [known == boot for known in part.described] == (part.labels() == 9).tolist()
    assert np.bincount(fashion.validation.labels()).tolist() == [500] * 10
    assert np.bincount(fashion.train.labels()).tolist() == [5500] * 10
    again = open_dataset(data_packs / "fashion_mnist")
    assert (again.validation.images.pixels == fashion.validation.images.pixels).all()

    def lines(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Counter[bytes]:
        flat = np.concatenate([pixels.reshape(len(pixels), -1), labels.astype(np.uint8)[:, None]], axis=1)
        return Counter(row.tobytes() for row in flat)

    parts = [lines(p.images.pixels.numpy(), p.labels()) for p in (fashion.train, fashion.validation)]
    assert parts[0] + parts[1] == lines(raw.pixels, raw.labels)


def test_the_first_digits_of_mnist_are_what_they_are_known_to_be(data_packs: Path) -> None:
    mnist = open_dataset(data_packs / "mnist", size=32)

    assert mnist.test.labels()[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert mnist.classes == tuple(f"mnist:{digit}" for digit in range(10))
    assert mnist.test.images.pixels.shape == (10_000, 1, 32, 32)
    border = mnist.test.images.pixels.clone()
    border[:, :, 2:30, 2:30] = 0
    assert not border.any()
    native = idx.read_split(data_packs / "mnist", "test").pixels
    assert (mnist.test.images.pixels[:, 0, 2:30, 2:30].numpy() == native).all()


def test_digits_are_not_made_smaller(data_packs: Path) -> None:
    with pytest.raises(ValueError, match="size is 16 pixels, the digits have 28x28"):
        open_dataset(data_packs / "mnist", size=16)


def test_an_idx_file_that_is_broken_is_named(data_packs: Path, tmp_path: Path) -> None:
    for name in ("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        shutil.copyfile(data_packs / "mnist" / name, tmp_path / name)
    pictures = gzip.decompress((data_packs / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(pictures[:-1], 1))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"nonsense")

    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz cannot be unpacked"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is not an IDX file of 3 dimensions"):
        idx.read_split(tmp_path, "test")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(pictures[:4] + (9).to_bytes(4, "big") + pictures[8 : 16 + 9 * 784], 1)
    )
    with pytest.raises(ValueError, match=r"9 pictures but 10000 labels \(test\)"):
        idx.read_split(tmp_path, "test")


def write_class_folders(data_packs: Path, root: Path, per_class: int, *, prefix: str = "") -> Path:
    """Real photos of the first three grocery classes as JPEG files in class folders."""
    pack = open_pack(data_packs / "grocery")
    seen: Counter[str] = Counter()
    for record in pack.records("train"):
        label = str(record.label)
        if (label in seen or len(seen) < 3) and seen[label] < per_class:
            seen[label] += 1
            path = root / label / f"{prefix}{seen[label]:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pack.read(record))
    assert list(seen.values()) == [per_class] * 3
    return root


def test_class_folders_are_split_by_their_bytes_and_not_by_their_names(
    data_packs: Path, tmp_path: Path
) -> None:
    folder = write_class_folders(data_packs, tmp_path / "fruit", 20)
    dataset = open_dataset(folder, size=TINY)

    assert (dataset.name, dataset.kind, len(dataset.classes)) == ("fruit", "folder", 3)
    assert {title: Counter(part.labels().tolist()) for title, part in parts_of(dataset).items()} == {
        "train": {0: 16, 1: 16, 2: 16},
        "validation": {0: 2, 1: 2, 2: 2},
        "test": {0: 2, 1: 2, 2: 2},
    }
    one = next(path for path in sorted(folder.iterdir()))
    by_hash = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in one.iterdir())
    found = open_folders(folder)
    own = [[p.digest for p in part if p.label == one.name] for part in (found.test, found.validation)]
    assert [sorted(digests) for digests in own] == [by_hash[:2], by_hash[2:4]]

    renamed = write_class_folders(data_packs, tmp_path / "other", 20, prefix="z")
    assert {p.digest for p in open_folders(renamed).test} == {p.digest for p in found.test}
    assert open_folders(renamed).fingerprint() != found.fingerprint()  # paths are part of it


def test_copies_of_a_photo_stay_on_one_side(data_packs: Path, tmp_path: Path) -> None:
    folder = write_class_folders(data_packs, tmp_path / "fruit", 16)
    for path in sorted(folder.glob("*/*.jpg")):
        shutil.copyfile(path, path.with_name(f"copy_{path.name}"))

    found = open_folders(folder)
    sides = [{photo.digest for photo in part} for part in (found.train, found.validation, found.test)]

    assert [len(part) for part in (found.train, found.validation, found.test)] == [72, 12, 12]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_given_train_and_test_folders_are_kept(data_packs: Path, tmp_path: Path) -> None:
    write_class_folders(data_packs, tmp_path / "fruit" / "train", 16)
    write_class_folders(data_packs, tmp_path / "fruit" / "test", 3)
    extra = tmp_path / "fruit" / "test" / "Unknown" / "1.jpg"
    extra.parent.mkdir()
    shutil.copyfile(next((tmp_path / "fruit" / "test").glob("*/*.jpg")), extra)

    dataset = open_dataset(tmp_path / "fruit", size=TINY)

    assert [len(part) for part in parts_of(dataset).values()] == [42, 6, 10]
    assert dataset.test.labels().tolist().count(-1) == 1  # a class that training does not have
    assert Described(("fruit:Unknown",), (), "Unknown") in dataset.test.described


def test_folders_that_cannot_be_an_experiment_are_refused(data_packs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a data pack .*, nor the four \.gz files of MNIST, nor"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="size is 0 pixels"):
        open_dataset(tmp_path, size=0)

    folder = write_class_folders(data_packs, tmp_path / "fruit", 7)
    with pytest.raises(ValueError, match="no class has 8 different photos"):
        open_dataset(folder)
    write_class_folders(data_packs, folder, 16)
    stray = folder / "stray.jpg"
    shutil.copyfile(next(folder.glob("*/*.jpg")), stray)
    with pytest.raises(ValueError, match=r"stray\.jpg lies in no class folder"):
        open_dataset(folder)
    stray.unlink()
    broken = next(folder.glob("*/01.jpg"))
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=rf"{broken.parent.name}/01\.jpg cannot be read as a picture"):
        open_dataset(folder, size=TINY)


def test_few_keeps_the_shape_of_a_dataset_and_chooses_alike_every_time(small_grocery: Dataset) -> None:
    assert len(small_grocery.classes) == 10
    for title, part in parts_of(small_grocery).items():
        counts = np.bincount(part.labels(), minlength=10)
        assert counts.max() == 8 or title == "validation"
        assert counts.min() >= 1
        assert len(part.items) == len(part.images.packs) == len(part.images.pixels) == counts.sum()
    fewer = few(small_grocery, per_class=3, classes=4)
    assert [len(part) for part in parts_of(fewer).values()] == [12, 12, 12, 12, 12]
    assert set(fewer.classes) < set(small_grocery.classes)
    assert (fewer.train.images.pixels == few(small_grocery, 3, 4).train.images.pixels).all()
    assert len({small_grocery.fingerprint, fewer.fingerprint, few(small_grocery, 2, 4).fingerprint}) == 3
    with pytest.raises(ValueError, match="per_class is 0"):
        few(small_grocery, 0)


def test_few_takes_the_pictures_of_the_classes_it_names(fashion: Dataset, small_fashion: Dataset) -> None:
    members = fashion.test.images.pixels[fashion.test.images.labels == 6]
    assert (small_fashion.test.images.pixels[small_fashion.test.images.labels == 6] == members[::25]).all()

    without = replace(fashion, validation=few(fashion, 5, 9).validation)  # class 9 in two parts only
    assert few(without, 5, 9).classes == fashion.classes[:9]


def test_pictures_and_labels_belong_together(small_fashion: Dataset) -> None:
    def pixels(part: Part) -> NDArray[np.float32]:
        flat = part.images.pixels.numpy().reshape(len(part), -1).astype(np.float32)
        unit: NDArray[np.float32] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        return unit

    gallery, queries = small_fashion.train, small_fashion.test
    values = retrieval_values(pixels(queries), queries.labels(), pixels(gallery), gallery.labels())

    assert values.means()["recall_at_1"] >= 0.7  # chance is 0.1
